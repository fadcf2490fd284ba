"""Candidates for queries, of one vector or of several, as one frame.

generator       CandidateGenerator: ids in, frame out; what everything else here serves
allocation      how the components of a mixture share a list
search          searches for many lists at once, shared components once
items           candidates that are mixtures: rows of components to items
files           candidate frames as folders of Parquet parts, written so that a killed run can go on
"""

__all__ = ["Allocation", "CandidateGenerator", "quotas"]

from recokit.candidates.allocation import Allocation, quotas
from recokit.candidates.generator import CandidateGenerator
