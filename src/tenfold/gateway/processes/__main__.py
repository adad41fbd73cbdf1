"""``python -m tenfold.gateway.processes LINE``: a worker, for its supervisor only. ``LINE`` is the descriptor of its
end of their channel.
"""

from __future__ import annotations

import sys

from tenfold.gateway.processes.worker import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
