"""The same weights in torch: one model file for both, the same numbers out, and a hundred steps of Adam side by side."""
import numpy as np
import pytest
from conftest import batch, build

import rnncore
from rnncore.config import TrainConfig
from rnncore.nn import stack
from rnncore.nn.lstm import State
from rnncore.optim import Adam, clip_scale, global_norm

torch = pytest.importorskip("torch", reason="torch is not installed: the comparison with it needs `pip install torch`")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors cannot load into torch here")

SIZES = [(7, 5, 4, 1), (11, 3, 9, 2), (30, 6, 5, 3)]  # V, E, H, L
sizes = pytest.mark.parametrize("vocab, embed, hidden, layers", SIZES)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Twin(torch.nn.Module):
    """The model as a torch user would write it, with the names that our files use."""

    def __init__(self, vocab, embed, hidden, layers, dtype=torch.float64):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab, embed, dtype=dtype)
        self.lstm = torch.nn.LSTM(embed, hidden, layers, dtype=dtype)
        self.head = torch.nn.Linear(hidden, vocab, dtype=dtype)

    def forward(self, ids, state=None):
        """ids (T, N) -> logits (T, N, V) and (h, c), each (L, N, H)."""
        y, state = self.lstm(self.embedding(ids), state)
        return self.head(y), state

    def loss(self, x, y, state=None):
        """Mean nats per character, and the state after x, cut off from the graph."""
        logits, (h, c) = self(torch.as_tensor(x), state)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.as_tensor(y).flatten())
        return loss, (h.detach(), c.detach())


def to_torch(state: State):
    """(L, H, N) -> (L, N, H)."""
    return tuple(torch.tensor(a).transpose(1, 2).contiguous() for a in state)


def twin_of(model, path) -> Twin:
    """Through a file, by torch's own loader; strict: every name of the module, and no other."""
    c = model.config
    twin = Twin(c.vocab_size, c.embed, c.hidden, c.layers, torch.float64 if model.dtype == np.float64 else torch.float32)
    rnncore.save(model, path)
    twin.load_state_dict(safetensors_torch.load_file(path), strict=True)
    return twin


@sizes
def test_our_file_in_torch(vocab, embed, hidden, layers, tmp_path):
    """Logits, loss, state and every gradient, over three windows with the state carried; measured: 2e-15."""
    model = build(vocab, embed, hidden, layers, scale=0.5)
    twin, state = twin_of(model, tmp_path / "model.safetensors"), batch(model, 1, 4).state
    their_state = to_torch(state)
    for window in range(3):
        case = batch(model, 8, 4, seed=window)
        logits = np.empty((8, vocab, 4))
        step_state = state
        for t, ids in enumerate(case.x):
            logits[t], step_state = model.step(ids, step_state)
        their_logits = twin(torch.as_tensor(case.x), their_state)[0].detach().numpy()
        np.testing.assert_allclose(logits, their_logits.transpose(0, 2, 1), rtol=0, atol=1e-11)

        loss, grads, state = model.loss_and_grads(case.x, case.y, state)
        twin.zero_grad()
        their_loss, their_state = twin.loss(case.x, case.y, their_state)
        their_loss.backward()
        assert abs(loss - their_loss.item()) < 1e-12
        for name, grad in grads.items():
            np.testing.assert_allclose(grad, twin.get_parameter(name).grad.numpy(), rtol=0, atol=1e-12, err_msg=name)
        for ours, theirs in zip(state, their_state, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 1), rtol=0, atol=1e-12)


@sizes
def test_torchs_weights_in_ours(vocab, embed, hidden, layers, tmp_path):
    """A state_dict with two random biases a layer -> assign -> save -> load: the same losses, in torch and here."""
    torch.manual_seed(0)
    twin, model = Twin(vocab, embed, hidden, layers), build(vocab, embed, hidden, layers)
    model.assign({name: tensor.numpy() for name, tensor in twin.state_dict().items()})
    rnncore.save(model, tmp_path / "model.safetensors")
    loaded = rnncore.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.dtype == np.float64 and (loaded.params.flat == model.params.flat).all()
    case = batch(model, 9, 4)
    loss, grads, state = loaded.loss_and_grads(case.x, case.y, case.state)
    their_loss, their_state = twin.loss(case.x, case.y, to_torch(case.state))
    their_loss.backward()
    assert abs(loss - their_loss.item()) < 1e-12
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, twin.get_parameter(name).grad.numpy(), rtol=0, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(state.h, their_state[0].numpy().transpose(0, 2, 1), rtol=0, atol=1e-12)
    back = safetensors_torch.load_file(tmp_path / "model.safetensors")
    assert set(back) == set(twin.state_dict())
    twin.load_state_dict(back, strict=True)
    assert abs(twin.loss(case.x, case.y, to_torch(case.state))[0].item() - their_loss.item()) < 1e-12


def test_the_gradient_at_the_initial_state(tmp_path):
    """With a gradient that arrives at the last state: torch's own back-propagation through all of it."""
    model = build(11, 3, 9, 2, scale=0.5)
    twin, case = twin_of(model, tmp_path / "model.safetensors"), batch(model, 8, 4)
    work = stack.Workspace(model.params, 8, 4)
    run, grads = stack.Pass(case.x, work, targets=case.y), model.params.like()
    work.begin(case.state)
    stack.losses(model.params, run)
    initial = stack.backward(model.params, run, case.dstate)
    stack.sum_up(model.params, grads, [run])
    state = [a.requires_grad_() for a in to_torch(case.state)]
    their_logits, last = twin(torch.as_tensor(case.x), tuple(state))
    total = torch.nn.functional.cross_entropy(their_logits.flatten(0, 1), torch.as_tensor(case.y).flatten(), reduction="sum")
    (total + sum((a * b).sum() for a, b in zip(last, to_torch(case.dstate), strict=True))).backward()
    for ours, theirs in zip(initial, state, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy().transpose(0, 2, 1), rtol=0, atol=1e-11)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, twin.get_parameter(name).grad.numpy(), rtol=0, atol=1e-11, err_msg=name)


def test_float32_through_a_file(tmp_path):
    model = build(11, 3, 9, 2, dtype="float32", scale=0.5)
    twin, case = twin_of(model, tmp_path / "model.safetensors"), batch(model, 8, 4)
    for name, tensor in model.tensors().items():
        assert tensor.dtype == np.float32 and (twin.state_dict()[name].numpy() == tensor).all()
    assert abs(model.loss_and_grads(case.x, case.y)[0] - twin.loss(case.x, case.y)[0].item()) < 2e-6


def clip_as_published(parameters, clip):
    """clip_grad_norm_ by Pascanu et al. 2013: torch's divides by norm + 1e-6."""
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if norm > clip:
        for parameter in parameters:
            parameter.grad.mul_(clip / norm)
    return norm


@pytest.mark.parametrize("clip, their_clipping, bound", [
    (0.0, lambda parameters, clip: clip_as_published(parameters, np.inf), 1e-11),  # largest difference measured: 4e-16
    (0.3, clip_as_published, 1e-11),                                               # 4e-16
    (0.3, torch.nn.utils.clip_grad_norm_, 1e-6),                                   # 2e-7, of its 1e-6 in the denominator
], ids=["free", "clipped", "clip_grad_norm_"])
def test_a_hundred_steps_of_adam(clip, their_clipping, bound, tmp_path):
    """Both trained from the same weights on the same windows, the state carried, the rate falling.

    bias_hh is frozen at zero in torch: two trained biases would step twice.
    """
    model = build(11, 3, 9, 2, scale=0.5)
    twin = twin_of(model, tmp_path / "model.safetensors")
    for name, parameter in twin.named_parameters():
        if "bias_hh" in name:
            parameter.requires_grad_(False)
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    config = TrainConfig(beta1=0.9, beta2=0.99, eps=1e-8)
    ours, theirs = Adam(model.params, config), torch.optim.Adam(trained, lr=1.0, betas=(0.9, 0.99), eps=1e-8)
    text, state, their_state, clipped = np.random.default_rng(0).integers(0, 11, (601, 4)), None, None, 0
    for step in range(1, 101):
        x, y = text[6 * step - 6:6 * step], text[6 * step - 5:6 * step + 1]
        rate = 1e-2 * (1 - step / 101)
        loss, grads, state = model.loss_and_grads(x, y, state)
        norm = global_norm(grads)
        clipped += clip_scale(norm, clip) < 1
        ours.update(model.params, grads, ours.pace(rate, step), clip_scale(norm, clip))

        theirs.zero_grad()
        their_loss, their_state = twin.loss(x, y, their_state)
        their_loss.backward()
        their_norm = their_clipping(trained, clip)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        assert abs(loss - their_loss.item()) < bound and abs(norm - their_norm.item()) < bound
    assert clipped > 20 if clip else clipped == 0
    for name, parameter in model.params.items():
        difference = abs(parameter - twin.get_parameter(name).detach().numpy()).max()
        assert difference < bound, (name, difference)
