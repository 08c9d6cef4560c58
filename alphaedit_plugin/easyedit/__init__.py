"""The plug-in inside EasyEdit: `register`, one flag in the host's hparams, `unregister`."""

from __future__ import annotations

from alphaedit_plugin.easyedit.host import HostError
from alphaedit_plugin.easyedit.prune_rect import PRUNEHyperParams, RECTHyperParams
from alphaedit_plugin.easyedit.registration import Coverage, register, unregister

__all__ = [
    "Coverage",
    "HostError",
    "PRUNEHyperParams",
    "RECTHyperParams",
    "register",
    "unregister",
]
