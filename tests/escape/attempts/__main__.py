"""Ways out of the sandbox, tried from inside: `python3 -I attempts HOST [NAME]`, HOST as JSON.

Writes one line of JSON to stderr, the one stream of every sandbox that the agent keeps: attempt → [verdict, got]. Then
it waits for the host, which looks for what can be seen only while the sandbox lives. With `list` for HOST it tells on
stdout what the attempts are.
"""

import json
import os
import sys
import time

if sys.argv[1:] == ["list"]:
    del sys.argv[1:]

# Each import registers attempts.
import devices  # noqa: F401
import files  # noqa: F401
import ipc  # noqa: F401
import kernel  # noqa: F401
import limits  # noqa: F401
import namespaces  # noqa: F401
import network  # noqa: F401
import privileges  # noqa: F401
import processes  # noqa: F401
from trying import ATTEMPTS, HOST, outcome

if not HOST:
    print(json.dumps({name: [group, tries, alone] for name, (group, tries, _, alone) in ATTEMPTS.items()}))
    sys.exit()
wanted = sys.argv[2:] or [name for name, (_, _, _, alone) in ATTEMPTS.items() if not alone]
said = {name: outcome(ATTEMPTS[name][2]) for name in wanted}
sys.stderr.write("\n" + json.dumps(said) + "\n")
sys.stderr.flush()
until = time.monotonic() + 5
while len(wanted) > 1 and not os.path.exists(HOST["input"] + "/go") and time.monotonic() < until:
    time.sleep(0.02)
