"""What is asked: requests, and the data sets they come from.

A new data set is one file in ``sets`` and one YAML file in ``conf/data``; see docs/data.md. Code
outside the package registers its own in the same way.
"""
