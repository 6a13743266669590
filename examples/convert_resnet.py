"""Give a ResNet norms that learn how to normalize, without changing what it computes."""

import torch
import torchvision

import norms

torch.manual_seed(0)
model = torchvision.models.resnet18(num_classes=10)  # in your own work with weights, such as weights="DEFAULT"
batch, labels = torch.randn(4, 3, 64, 64), torch.randint(10, (4,))
for _ in range(3):
    model(batch)  # so that the running statistics are no longer the initial ones

before = model.eval()(batch)
# At rho = 1, where it starts, batch-instance normalization is batch normalization. `exact` makes sure of that.
norms.convert(model, "batch_instance", where=lambda name, norm: name.startswith(("bn1", "layer1")), exact=True)
torch.testing.assert_close(model(batch), before)
print(f"{len(list(norms.mixing_layers(model)))} of 20 norms now have a rho, and the output is the same")

# From here it can be fine-tuned, and its first layers may drop the style of single images.
optimizer = torch.optim.SGD(norms.param_groups(model, lr=0.02, weight_decay=1e-4), momentum=0.9)
optimizer.register_step_post_hook(lambda *_: norms.project_(model))
model.train()
for _ in range(5):
    loss = torch.nn.functional.cross_entropy(model(batch), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(norms.report(model))

# Where every rho is 1 the way back is exact too; where it is not, `exact` refuses it.
try:
    norms.convert(model, "batch", exact=True)
except ValueError as error:
    print(f"no way back: {error}")
