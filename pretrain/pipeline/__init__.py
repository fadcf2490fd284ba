"""The pipeline that a team schedules every night: selection to publication, in steps that are skipped or gone on with.

settings = load_pipeline("pipeline.toml")
outcome = run_pipeline(settings)
outcome.published, outcome.gates
"""

__all__ = ["STEPS", "BusyError", "Outcome", "PipelineSettings", "load_pipeline", "run_pipeline", "show_status"]

from pretrain.pipeline.night import STEPS
from pretrain.pipeline.run import Outcome, run_pipeline, show_status
from pretrain.pipeline.settings import PipelineSettings, load_pipeline
from pretrain.pipeline.work import BusyError
