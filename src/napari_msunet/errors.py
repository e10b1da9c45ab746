"""The errors a user can meet. Each message says what was given, what was expected and what to do."""


class MsunetError(ValueError):
    """Something given to napari-msunet cannot be used; the message is one clear sentence for the user."""


class SlideError(MsunetError):
    """A file cannot be read as an image."""


class MissingMppError(SlideError):
    """A slide's file gives no µm per pixel and a caller needs it."""


class SourceError(MsunetError):
    """Training or evaluation images and masks do not fit together."""


class ModelError(MsunetError):
    """A model file or model configuration cannot be used."""


class StoreError(MsunetError):
    """A label store is damaged, or does not fit what is written into it."""


class StoreLockedError(StoreError):
    """Another process writes into this label store; the message names the holder."""


class OutputError(MsunetError):
    """An output cannot be written: a full disk, a read-only folder, a name that is taken."""
