"""`yuan doctor`: what is wrong with this machine or its stack, and the mend. It looks, and changes nothing.

`findings.py` is what a check returns; `machine.py` looks at Python, packages, compiler and devices, `places.py` at
folders and files, `services.py` at what runs. What a check needs that is broken itself is left out, not guessed.
"""

from yuan_stack.doctor.diagnosis import diagnose
from yuan_stack.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "diagnose"]
