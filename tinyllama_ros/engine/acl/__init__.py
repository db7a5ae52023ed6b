"""
The backend of an Ascend NPU, through pyACL; the one place that imports `acl`.

It must not import anything but artifacts, errors and the Backend protocol.
"""
