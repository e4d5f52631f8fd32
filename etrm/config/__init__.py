"""The one configuration tree: frozen, closed, typed, and cross-checked when it is built.

A config comes from a preset or a TOML file, then from ``--set section.key=value`` overrides. An
unknown key names the nearest known one; a combination under which nothing sensible could happen
is refused here, before any data is read.
"""

from etrm.config.data import RULES as RULES
from etrm.config.data import SIDE as SIDE
from etrm.config.data import Asked as Asked
from etrm.config.data import DataConfig as DataConfig
from etrm.config.data import is_rules as is_rules
from etrm.config.model import KNOBS as KNOBS
from etrm.config.model import STATEFUL as STATEFUL
from etrm.config.model import VARIATIONAL as VARIATIONAL
from etrm.config.model import EncoderConfig as EncoderConfig
from etrm.config.model import EncoderKind as EncoderKind
from etrm.config.model import HaltConfig as HaltConfig
from etrm.config.model import ModelConfig as ModelConfig
from etrm.config.train import TrainConfig as TrainConfig
from etrm.config.tree import Config as Config
from etrm.config.tree import build as build
from etrm.config.tree import load as load
from etrm.config.tree import presets as presets
from etrm.config.tree import with_overrides as with_overrides
from etrm.config.watch import EvaluateConfig as EvaluateConfig
from etrm.config.watch import MonitorConfig as MonitorConfig
from etrm.override import override as override
