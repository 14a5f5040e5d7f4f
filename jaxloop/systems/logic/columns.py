"""The columns of metrics.csv of the logic language, as they are measured here, and of its learners."""

from jaxloop.analysis.columns import DIVERSITY, PART, SUMMED, TRAINING_DIVERSITY, UNIQUE, Column, Columns


def _share(name: str, meaning: str, role: str = "", axis: str = "") -> Column:
    return Column(name, meaning, 0.0, 1.0, role, axis)


def _positive(name: str, meaning: str, role: str = "") -> Column:
    return Column(name, meaning, 0.0, role=role)


def _error(name: str, what: str) -> Column:
    return Column(name, f"standard error of {what}", 0.0)


COLUMNS = Columns(
    (
        _share("true_share", "samples that are true; the three sum to 1", PART),
        _share("false_share", "samples that are false", PART),
        _share("invalid_share", "samples that are no expressions", PART),
        _share("syntax_share", "the invalid ones by fault: against the grammar"),
        _share("unfinished_share", "cut off by the context"),
        _share("empty_share", "no token"),
        _share(
            "diversity",
            "mean over all pairs of samples of the token-level Levenshtein distance divided by the longer length, "
            "exactly",
            DIVERSITY,
            axis="mean normalised Levenshtein distance",
        ),
        _share("true_diversity", "the same over the true samples alone"),
        _share("unique_share", "different samples, of all samples", UNIQUE),
        _share(
            "heterozygosity",
            "probability that two samples drawn with replacement differ: 1 - sum of squared shares",
        ),
        _positive("entropy_nats", "entropy of the samples' empirical distribution; at most log n"),
        _positive("mean_length_tokens", "tokens per sample, without `<eos>`"),
        _positive("mean_depth", "depth of the valid samples' trees"),
        _share(
            "canonical_share",
            "different canonical forms (up to the order of operands of `and` and `or`), of the valid samples",
        ),
        _positive("canonical_entropy_nats", "Shannon entropy of the canonical forms of the valid samples"),
        _positive("canonical_hill_0", "Hill numbers of the canonical forms: their number"),
        _positive("canonical_hill_1", "the exponential of their entropy"),
        _positive("canonical_hill_2", "the inverse of the sum of squared shares"),
        _positive("shape_entropy_nats", "Shannon entropy of the valid samples' trees without their words"),
        _share("distinct_1", "different tokens, of all tokens of all samples"),
        _share("distinct_2", "different pairs of tokens, of all pairs"),
        _share("distinct_3", "the same of three tokens"),
        _share("distinct_4", "the same of four tokens"),
        _share("seen_in_training_share", "samples that stood in the rows that trained the model"),
        _positive("training_rows", "rows that trained the model"),
        _share("training_diversity", "their diversity", TRAINING_DIVERSITY),
        _share("training_unique_share", "different ones, of all of them"),
        _share("real_rows_share", "those of them that are the first real data"),
        _share("fresh_rows_share", "those that were drawn anew from the source"),
        _share("sampled_rows_share", "those that models wrote"),
        _positive("source_entropy_nats", "what no model can beat on average: the exact entropy of the source"),
        _share("outside_share", "samples outside the source's support, all told"),
        _share("too_deep_share", "those of them that are right but for their depth: operators from `max_depth` on"),
        _share("too_shallow_share", "the same: leaves above `min_depth`"),
        _positive(
            "held_out_nats",
            "nats per expression, `<eos>` included, on real rows that no model trains on, without the temperature",
        ),
        _share("total_variation", "between model as it writes and source, from the samples", SUMMED),
        _error("total_variation_standard_error", "the total variation"),
        _positive("forward_kl_nats", "KL(source, model as it writes), from those rows", SUMMED),
        _error("forward_kl_standard_error_nats", "that divergence"),
        _positive(
            "untempered_forward_kl_nats",
            "the same without the temperature: `held_out_nats` less the entropy, with less noise",
        ),
        _error("untempered_forward_kl_standard_error_nats", "that divergence"),
        _positive("reverse_kl_nats", "KL(model as it writes, within the support; source), from the samples"),
        _error("reverse_kl_standard_error_nats", "that divergence"),
        _positive("model_entropy_nats", "entropy of the model as it writes, from the samples"),
        _error("model_entropy_standard_error_nats", "that entropy"),
        _share(
            "alive_share",
            "different expressions of the first real data to which the model still gives at least "
            "`measure.alive_share` of their true probability",
            SUMMED,
        ),
        _positive("exact_forward_kl_nats", "the same by sums over the whole language, where it is enumerated"),
        _positive("exact_reverse_kl_nats", "the same"),
        _share("exact_total_variation", "the same"),
        _share("exact_inside_share", "the model's mass in the support"),
        _share("exact_false_share", "its mass on false expressions of the language's depths (0 unless `only_true`)"),
        _share("exact_invalid_share", "its mass on everything else, expressions of other depths included"),
        _share("exact_covered_share", "the source's mass on expressions that are alive"),
        _positive(
            "validation_nats",
            "nats per expression on the generation's own validation rows, at the look that chose the parameters",
        ),
        _positive("training_nats_per_token", "of the last step"),
        _positive("training_steps", "taken; fewer than set where patience ran out"),
    )
)
