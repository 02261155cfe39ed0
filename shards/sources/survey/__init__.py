"""``petseg-shard labels``: which values or colours the masks of a source hold, and a labels file to edit."""

from shards.sources.survey.label_survey import Survey, survey_masks
from shards.sources.survey.labels_template import is_binary, labels_template, split_options, survey_json, survey_text

__all__ = ["Survey", "is_binary", "labels_template", "split_options", "survey_json", "survey_masks", "survey_text"]
