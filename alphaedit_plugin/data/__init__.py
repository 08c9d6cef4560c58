"""What is asked: requests, and the data sets they come from.

A new data set is one file in ``sets`` and one YAML file in ``conf/data``. The file holds a function
that makes requests of one record (a `Fields`, whose errors name the field), and registers it::

    DATA.register("mine", FileData("mine", "mine.json", "https://…", lambda data: Reading(read)))

`FileData` opens the file, drops records that cannot be used, and reports them. Code outside the
package registers its own in the same way, or any function from a configuration to `EditData`.
"""
