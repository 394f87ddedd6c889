"""What holds for all unit tests."""

import signal

# A shell starts a background job with SIGINT ignored, which what the tests start would inherit: Ctrl-C is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
