"""What holds for all unit tests."""

import signal

# A shell starts a background job with SIGINT ignored, and nohup one with SIGHUP, which what tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
