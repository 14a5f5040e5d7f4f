"""The columns of metrics.csv of the Gaussian system, as they are measured here."""

from jaxloop.analysis.columns import DIVERSITY, SUMMED, TRAINING_DIVERSITY, Column, Columns


def _positive(name: str, meaning: str, role: str = "", axis: str = "") -> Column:
    return Column(name, meaning, 0.0, role=role, axis=axis)


# Where nothing else is said, the model is the one that was fitted, without the temperature.
COLUMNS = Columns(
    (
        _positive(
            "diversity",
            "standard deviation of the samples, divided by n",
            DIVERSITY,
            axis="standard deviation",
        ),
        _positive("sample_variance", "its square", axis="variance of the samples"),
        Column("sample_mean", "mean of the samples"),
        _positive("training_rows", "rows that trained the model"),
        _positive(
            "training_diversity", "standard deviation of the rows that trained the model, as above", TRAINING_DIVERSITY
        ),
        Column("model_mean", "mean of the model, mu_t"),
        _positive("model_standard_deviation", "standard deviation of the model, s_t", axis="standard deviation"),
        _positive("model_variance", "its square, s_t^2", axis="variance"),
        _positive("mean_error", "|mu_t - mu|, which Shumailov et al. plot"),
        _positive("squared_mean_error", "its square", axis="squared error of the mean"),
        _positive("standard_deviation_error", "|s_t - sigma|, which they plot beside it"),
        Column("log_variance_ratio", "log(s_t^2 / sigma^2)", axis="log of the variance's ratio (nats)"),
        _positive(
            "wasserstein_2", "Wasserstein-2 distance of model as it writes and source", SUMMED, axis="Wasserstein-2"
        ),
        _positive("squared_wasserstein_2", "its square", axis="squared Wasserstein-2"),
        Column(
            "total_variation",
            "between model as it writes and source, exactly, as all distances here are",
            0.0,
            1.0,
            SUMMED,
        ),
        _positive("forward_kl_nats", "KL(source, model as it writes)", SUMMED, axis="KL(source, model) in nats"),
        _positive("reverse_kl_nats", "KL(model as it writes, source)", axis="KL(model, source) in nats"),
        Column("held_out_nats", "cross entropy of the source under the model: what a real row costs in the mean"),
        _positive("untempered_forward_kl_nats", "KL(source, model)"),
        _positive("untempered_forward_kl_standard_error_nats", "its standard error: 0, for it is exact"),
    )
)
