"""Print the interpreter's version and every distribution's as one line of JSON; runs inside the pinned image."""

import json
import platform
import re
from importlib.metadata import distributions

print(
    json.dumps(
        {
            "python": platform.python_version(),
            "packages": {
                re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(): found.version for found in distributions()
            },
        }
    )
)
