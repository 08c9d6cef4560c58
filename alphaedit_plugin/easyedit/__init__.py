"""The plug-in inside EasyEdit: `register`, one flag in the host's hparams, `unregister`."""
