"""The configuration: one frozen, typed tree that is checked when it is built.

A config comes from a preset, a TOML file or a run, with ``--set section.key=value`` overrides (:func:`resolve`). Code
changes a config with :func:`with_settings`. The error for an unknown key names the nearest known one. Impossible
combinations are refused here, before any data is read.
"""

from etrm.config.code_names import RULES as RULES
from etrm.config.code_names import is_rules as is_rules
from etrm.config.code_names import named_code as named_code
from etrm.config.curriculum import NO_CURRICULUM as NO_CURRICULUM
from etrm.config.curriculum import Curriculum as Curriculum
from etrm.config.curriculum import CurriculumStage as CurriculumStage
from etrm.config.curriculum import find_stage as find_stage
from etrm.config.curriculum import scale_curriculum as scale_curriculum
from etrm.config.curriculum import shorten_curriculum as shorten_curriculum
from etrm.config.data import NO_STREAM as NO_STREAM
from etrm.config.data import SIDE as SIDE
from etrm.config.data import DataConfig as DataConfig
from etrm.config.data import QueryChoice as QueryChoice
from etrm.config.describe import Setting as Setting
from etrm.config.describe import list_sections as list_sections
from etrm.config.describe import list_settings as list_settings
from etrm.config.evaluate import AdaptationConfig as AdaptationConfig
from etrm.config.evaluate import AdaptedPart as AdaptedPart
from etrm.config.evaluate import ContextSearchConfig as ContextSearchConfig
from etrm.config.evaluate import EvaluateConfig as EvaluateConfig
from etrm.config.model import KINDS as KINDS
from etrm.config.model import KNOBS as KNOBS
from etrm.config.model import STATEFUL as STATEFUL
from etrm.config.model import VARIATIONAL as VARIATIONAL
from etrm.config.model import EncoderConfig as EncoderConfig
from etrm.config.model import EncoderKind as EncoderKind
from etrm.config.model import HaltConfig as HaltConfig
from etrm.config.model import ModelConfig as ModelConfig
from etrm.config.model import VariantName as VariantName
from etrm.config.monitor import MonitorConfig as MonitorConfig
from etrm.config.resolve import Resolved as Resolved
from etrm.config.resolve import Source as Source
from etrm.config.resolve import list_presets as list_presets
from etrm.config.resolve import load as load
from etrm.config.resolve import resolve as resolve
from etrm.config.resolve import resolve_run as resolve_run
from etrm.config.section import Precision as Precision
from etrm.config.symbolic import SymbolicConfig as SymbolicConfig
from etrm.config.train import TrainConfig as TrainConfig
from etrm.config.tree import Changes as Changes
from etrm.config.tree import Config as Config
from etrm.config.tree import build as build
from etrm.config.tree import check_request as check_request
from etrm.config.tree import parse_settings as parse_settings
from etrm.config.tree import with_interventions as with_interventions
from etrm.config.tree import with_overrides as with_overrides
from etrm.config.tree import with_settings as with_settings
from etrm.setting_texts import override as override
