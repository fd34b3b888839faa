"""Which keys do nothing, given the others: no source could tell them, and to set one only makes another recipe."""

from nin_repro.schema import Cnn, Config, Maxout, Nin, Schedule


def idle(config: Config) -> list[str]:
    """Patterns of keys that are there and do nothing."""
    regularizer, architecture = config.regularizer, config.architecture
    found = [f"optimizer.schedule.{name}" for name in _idle_schedule(config.optimizer.schedule)]
    if config.optimizer.schedule.kind == "parent":
        found.append("optimizer.momentum")
    if regularizer.head == "gap":
        found += [f"regularizer.{name}" for name in ("head_dropout", "fc_std", "fc_lr_factor")]
    if not regularizer.dropout:
        found.append("regularizer.dropout_at")
        found += [] if regularizer.head == "fc" and regularizer.head_dropout else ["regularizer.convention"]
    if isinstance(architecture, Maxout):
        found += ["regularizer.fc_std", "optimizer.last_layer_factor", "optimizer.last_layer_bias_factor"]
    if isinstance(architecture, Nin):
        found += [] if architecture.init == "normal" else ["architecture.blocks.*.std"]
        for name, block in architecture.blocks.items():
            found += [f"architecture.blocks.{name}.pool_*"] if block.pool == "none" else []
    if isinstance(architecture, Cnn) and not any(block.response_norm for block in architecture.blocks.values()):
        found.append("architecture.response_norm.*")
    return found


def _idle_schedule(schedule: Schedule) -> set[str]:
    used = {
        "drops": {"drops", "factor", "bias_drops"} if schedule.drops else {"drops"},
        "plateau": {"patience", "plateau_drops", "factor", "bias_drops"},
        "linear": {"factor", "decay_epochs", "bias_drops"},
        "exponential": {"factor", "floor", "bias_drops"},
        "parent": {"bias_drops"},
    }
    ramp = {"momentum_epochs", "momentum_final"}
    if schedule.kind != "parent":
        used[schedule.kind] |= ramp if schedule.momentum_epochs else {"momentum_epochs"}
    used[schedule.kind] |= {"stop_patience"} if schedule.stop == "validation" else set()
    return {*used["drops"], *used["plateau"], *used["linear"], "floor", "bias_drops", "stop_patience", *ramp} - used[
        schedule.kind
    ]
