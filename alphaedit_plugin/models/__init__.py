"""A Hugging Face model, opened: where its editable parts are, and how to read and run it.

The layout of a family follows from ``config.model_type`` (`families`), never from the model's name
or path; that of an unknown one from running it (`discover`). Weights are *oriented*
``(d_out, d_in)``, however their module stores them.
"""
