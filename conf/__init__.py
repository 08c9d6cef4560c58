"""The Hydra groups, installed as ``alphaedit_plugin.conf``."""
