"""A contract double of EasyEdit: what the plug-in relies on, and nothing else. All of it is ours.

It is smaller than the host and its mathematics are simple: targets are drawn at random from the
request. What it keeps is the contract: who calls which module global, how often, with what shape,
who writes, who restores, what is returned, and what goes wrong in the host too.
"""

from .editors.batch_editor import BatchEditor
from .editors.editor import BaseEditor

__all__ = ["BaseEditor", "BatchEditor"]

# The host's star imports shadow its subpackages: only full module names can be relied upon.
models = util = None
