"""What holds for all unit tests."""

import signal

# A shell starts a background job with SIGINT ignored, and whatever the tests start would inherit that: Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
