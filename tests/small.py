"""The words of the project's own network at a size that trains on the digits in a second."""

SMALL_NETWORK = (
    "dataset=digits",
    "architecture=nin_small",
    "architecture.blocks.mlpconv1.widths=[12,8,8]",
    "architecture.blocks.mlpconv2.widths=[12,8,8]",
    "architecture.blocks.mlpconv3.widths=[12,8,classes]",
    "architecture.last_relu=false",  # so that no seed dies
)
