"""The one error of this room: the samples do not hold what the method needs."""


class SignalError(ValueError):
    """The samples hold no usable line-scan signal; the message says what is missing and what to do."""
