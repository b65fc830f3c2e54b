"""Episodes as LeRobot datasets: v3.0 (parquet and mp4 shards), v2.1 (a file per episode), and back.

Our own code for the layout on disk: the package lerobot pins other versions of torch than PLD runs with. It
appears in the tests only, which open what is written here with it.
"""

from pld_core.errors import ConfigError

try:
    import pyarrow as _  # noqa: F401
except ImportError as error:
    raise ConfigError(
        "LeRobot datasets need pyarrow: pip install 'pld[lerobot]' (in a checkout: pip install -e '.[lerobot]')."
    ) from error

from pld_core.data.lerobot.features import DatasetSpec
from pld_core.data.lerobot.reader import LeRobotReader
from pld_core.data.lerobot.writer import LeRobotWriter

__all__ = ["DatasetSpec", "LeRobotReader", "LeRobotWriter"]
