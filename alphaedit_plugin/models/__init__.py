"""Where a model keeps what an edit touches, and how to look inside while it runs.

The layout of a family is found by ``config.model_type`` (`families`), never by the model's name or
path; of an unknown one by running it (`discover`). Weights are seen *oriented*,
``(d_out, d_in)``, whatever their module's storage.
"""
