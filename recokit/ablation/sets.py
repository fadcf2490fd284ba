"""Sets of features: what of a full spec each column of an ablation's table includes.

A feature that no set names is always there. A name is that of a pretrained feature or of a bag, or a dense, categorical
or hashed column; where a categorical or hashed column has a pretrained feature of its name, the name means the latter.
"""

__all__ = ["always_there", "feature_sets"]

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from recokit.errors import ConfigError, closest
from recokit.features import FeatureSpec


def feature_sets(features: FeatureSpec, sets: Mapping[str, Sequence[str]]) -> dict[str, FeatureSpec]:
    """Return the spec of each set.

    Args:
        features: Everything that a set can include.
        sets: The name of a set to the features that it has beyond those that are always there, which are those that no
            set names.

    Raises:
        ConfigError: A set names what is no feature, or what it leaves makes no spec: it has no feature, or lacks one
            that another refers to.
    """
    if not isinstance(sets, Mapping) or not sets:
        raise ConfigError(f"sets is {sets!r}, expected names and what each includes: {{'baseline': [], 'U': ['user']}}")
    named = _names(features)
    for name, chosen in sets.items():
        if isinstance(chosen, str) or not isinstance(chosen, Sequence):
            raise ConfigError(f"set {name!r} is {chosen!r}, expected a list of names of features")
        for feature in chosen:
            if feature not in named:
                raise ConfigError(f"set {name!r} has the feature {feature!r}; {closest(str(feature), named)}")
    optional = {feature for chosen in sets.values() for feature in chosen}
    return {name: _without(features, optional.difference(chosen), name) for name, chosen in sets.items()}


def always_there(features: FeatureSpec, sets: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of the features that every set has, because none names them."""
    optional = {feature for chosen in sets.values() for feature in chosen}
    return [name for name in _names(features) if name not in optional]


def _names(features: FeatureSpec) -> list[str]:
    keys = [feature.key for feature in features.pretrained] + [bag.key for bag in features.bags]
    return list(dict.fromkeys([*keys, *features.dense, *features.categorical, *features.hashed]))


def _without(features: FeatureSpec, left_out: Collection[str], name: str) -> FeatureSpec:
    pretrained = {feature.key for feature in features.pretrained}
    columns = set(left_out) - pretrained
    try:
        return replace(
            features,
            pretrained=[feature for feature in features.pretrained if feature.key not in left_out],
            bags=[bag for bag in features.bags if bag.key not in left_out],
            dense=[column for column in features.dense if column not in left_out],
            categorical={column: values for column, values in features.categorical.items() if column not in columns},
            hashed=[column for column in features.hashed if column not in columns],
            statistics=None,
        )
    except ConfigError as error:
        raise ConfigError(f"set {name!r}: {error}") from error
