"""What objects hold as text, to count the work of adding to it."""


def longest_text(*holders: object) -> int:
    """
    Return the characters of the longest text among the attributes of objects.

    A text that grows with each token is copied as a whole each time; a StringIO is not.
    """
    return max(len(value) for holder in holders for value in vars(holder).values()
               if isinstance(value, str))
