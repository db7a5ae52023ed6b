"""A stand-in for atc: checks what the real one checks, and writes what our acl loads."""
