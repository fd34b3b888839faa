"""Which keys do nothing, given the others: no source could tell them, and to set one only makes another recipe."""

from nin_repro.schema import Cnn, Config, Maxout, Nin, Schedule, idle_in_regularizer


def idle(config: Config) -> list[str]:
    """Patterns of keys that are there and do nothing."""
    regularizer, architecture = config.regularizer, config.architecture
    found = [f"optimizer.schedule.{name}" for name in _idle_schedule(config.optimizer.schedule)]
    if config.optimizer.schedule.kind == "parent":
        found.append("optimizer.momentum")
    names = idle_in_regularizer(regularizer.dropout, regularizer.head, regularizer.head_dropout)
    found += [f"regularizer.{name}" for name in names]
    if isinstance(architecture, Maxout):
        found += ["regularizer.fc_std", "optimizer.last_layer_factor", "optimizer.last_layer_bias_factor"]
    if isinstance(architecture, Nin):
        found += [] if architecture.init == "normal" else ["architecture.blocks.*.std"]
        for name, block in architecture.blocks.items():
            found += [f"architecture.blocks.{name}.pool_*"] if block.pool == "none" else []
    if isinstance(architecture, Cnn) and not any(block.response_norm for block in architecture.blocks.values()):
        found.append("architecture.response_norm.*")
    return found


# What each kind of schedule goes by.
BY_KIND = {
    "drops": {"drops", "factor", "bias_drops"},
    "plateau": {"patience", "plateau_drops", "factor", "bias_drops"},
    "linear": {"decay_epochs", "factor", "bias_drops"},
    "exponential": {"floor", "factor", "bias_drops"},
    "parent": {"bias_drops"},
}


def _idle_schedule(schedule: Schedule) -> set[str]:
    used = {"drops"} if schedule.kind == "drops" and not schedule.drops else BY_KIND[schedule.kind]
    if schedule.kind != "parent":
        used = used | ({"momentum_epochs", "momentum_final"} if schedule.momentum_epochs else {"momentum_epochs"})
    if schedule.stop == "validation":
        used = used | {"stop_patience"}
    return {"momentum_epochs", "momentum_final", "stop_patience"}.union(*BY_KIND.values()) - used
