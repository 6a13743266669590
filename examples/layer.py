"""Put a norm that learns how to normalize into your own network, and train it as you train any other."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import norms

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
labels = torch.tensor(digits.target)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False),
    norms.BatchInstanceNorm2d(16),  # instead of nn.BatchNorm2d(16)
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
    norms.SwitchableNorm2d(32),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
)

# Two lines are special: rho gets ten times the learning rate, and returns to [0, 1] after every step.
optimizer = torch.optim.Adam(norms.param_groups(model, lr=3e-3))
optimizer.register_step_post_hook(lambda *_: norms.project_(model))

for _ in range(120):
    chosen = torch.randint(1500, (64,))
    loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

model.eval()
right = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean()
print(f"{right:.0%} of the test digits are right")
print(norms.report(model))
