"""The heads that Table 5 compares (section 4.6)."""

from torch import Tensor, nn

from nin_repro.models.network import Clock, Dropout, Head, Start
from nin_repro.models.shape import Shape
from nin_repro.schema import Regularizer


class GlobalAveragePooling(Head):
    """[N, classes, H, W] to [N, classes]: the mean of each class's map (section 3.2)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class FullyConnected(Head):
    """[N, C, H, W] to [N, classes]: a fully connected layer on all of the last maps (section 4.6), perhaps with dropout
    on its inputs."""

    def __init__(self, maps: Shape, classes: int, regularizer: Regularizer, layer: int, clock: Clock) -> None:
        super().__init__(maps, classes, regularizer, layer, clock)
        self.fc = nn.Linear(maps.size, classes)
        self.dropout: nn.Module = nn.Identity()
        if regularizer.head_dropout:
            self.dropout = Dropout(regularizer.head_dropout, regularizer.convention, layer, clock)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(x.flatten(1)))

    def weighted(self) -> list[Start]:
        return [Start(self.fc, self.fill)]
