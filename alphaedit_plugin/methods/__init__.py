"""Base methods, a file each, and `alphaedit`, the null-space wrapper that takes any of them.

A new method is one file here, or anywhere: a subclass of `BaseMethod` that is passed to
``METHODS.register``; and a YAML file in ``conf/base``.
"""
