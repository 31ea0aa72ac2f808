"""Code run by an interpreter that has imported and set nothing yet."""

import subprocess
import sys


def printed(code, *words):
    """Run code, with words as its arguments, and give what it prints."""
    return subprocess.check_output([sys.executable, "-c", code, *words], text=True)
