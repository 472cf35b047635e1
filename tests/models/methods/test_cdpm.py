import math
from dataclasses import replace

import pytest
import torch

from helpers.small_models import NETWORK, SAMPLING, SIZE, own_settings
from models.dataset import Batch, SliceKey, to_signed
from models.draws import keyed_rng
from models.methods.cdpm import CDPM, Condition
from models.methods.legopet import LegoPET
from models.methods.pnpnet import PnPNet
from models.networks.unet import Features
from models.sampling import make_sampler, sample
from pipeline.storage.errors import InputError

OWN = own_settings("LegoPET")
CDPM_OWN = own_settings("cDPM")
KEYS = [SliceKey("subject04", 0, n) for n in range(4)]


def alpha_bar(t, noise_schedule="linear"):
    """Product of 1 - beta up to step t, from the schedule's closed form."""
    if noise_schedule == "linear":
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    else:  # Nichol and Dhariwal 2021, equation 17, no beta above 0.999
        time = torch.arange(1001, dtype=torch.float64) / 1000
        f = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0)[t].float()


def images(n=4, seed=0, channels=1):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, SIZE, SIZE, generator=draw)


def loss_of(method, batch, *key):
    (objective,) = method.training_step(batch, [keyed_rng(*key, *k) for k in batch.keys])
    assert objective.part == "network"
    return objective.losses["loss"]


def legopet(conditioning=("sinogram",), **changes):
    torch.manual_seed(0)
    own = own_settings("LegoPET", conditioning=list(conditioning), **changes)
    method = LegoPET(NETWORK, own)
    method.use_frozen(PnPNet(NETWORK, own_settings("PnPNet", conditioning=list(conditioning))))
    return method


def sampling(**changes):
    return replace(SAMPLING, **changes)


SCHEDULES = pytest.mark.parametrize("noise_schedule", ["linear", "cosine"])


@SCHEDULES
def test_forward_process_has_its_closed_form(noise_schedule):
    method = CDPM(NETWORK, replace(CDPM_OWN, noise_schedule=noise_schedule))
    x, noise, t = images(), images(seed=1), torch.tensor([0, 10, 500, 999])
    a = alpha_bar(t, noise_schedule)[:, None, None, None]
    expected = a.sqrt() * x + (1 - a).sqrt() * noise
    assert torch.allclose(method.schedule.add_noise(x, noise, t), expected, atol=1e-5)


def test_cosine_schedule_is_that_of_nichol_and_dhariwal():
    """alpha_bar(t) = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) pi / 2), s = 0.008."""
    scheduler, _ = make_sampler(replace(OWN, noise_schedule="cosine"), sampling())
    found = scheduler.alphas_cumprod.double()
    assert len(found) == 1000
    time = torch.arange(1, 1000, dtype=torch.float64) / 1000
    f = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
    f_0 = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    # The last step would leave nothing: its beta is 0.999 instead of 1.
    torch.testing.assert_close(found[:-1], f / f_0, rtol=1e-3, atol=0)
    torch.testing.assert_close(found[-1], found[-2] * 1e-3, rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_training_step_is_zero_for_an_oracle(prediction):
    method = legopet(prediction=prediction)
    batch = Batch(images(), images(seed=1), KEYS)
    x0 = to_signed(batch.image)

    def oracle(x, t, features):
        a = alpha_bar(t)[:, None, None, None]
        eps = (x[:, :1] - a.sqrt() * x0) / (1 - a).sqrt()
        return {
            "epsilon": eps,
            "sample": x0,
            "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x0,
        }[prediction]

    method.network.forward = oracle
    assert loss_of(method, batch, 0) < 1e-5


def test_training_draws_come_from_the_generator_alone():
    method, batch = legopet(), Batch(images(), images(seed=1), KEYS)
    first, again, other = (loss_of(method, batch, 0, "step", k) for k in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("conditioning", [["sinogram"], ["sinogram", "fbp"]], ids=len)
def test_condition_dropout_hides_everything_about_some_slices(conditioning):
    method, seen = legopet(conditioning, condition_dropout=0.5), []
    plain = method.network.forward

    def spy(x, t, features):
        seen.append((x[:, 1:], features))
        return plain(x, t, features)

    method.network.forward = spy
    keys = [SliceKey("subject04", 0, n) for n in range(40)]
    inputs = images(40, channels=len(conditioning)) + 0.1
    loss_of(method, Batch(inputs, images(40, seed=1), keys), 3)
    ((inputs, features),) = seen
    assert inputs.shape[1] == len(conditioning)
    dropped = inputs.flatten(1).eq(0).all(dim=1)
    assert 5 < dropped.sum() < 35
    for feature in features.down + features.middle:
        assert torch.equal(feature.flatten(1).eq(0).all(dim=1), dropped)


def test_condition_without_dropout_is_untouched():
    method = legopet(condition_dropout=0.0)
    condition = method.condition(images())
    kept = condition.times(torch.ones(4))
    assert torch.equal(kept.inputs, condition.inputs)
    assert all(map(torch.equal, kept.features.down, condition.features.down))


def test_absent_condition_has_the_same_shapes():
    condition = legopet().condition(images(2))
    both = condition.followed_by_zeros()
    assert torch.equal(both.inputs[:2], condition.inputs)
    for one, two in zip(condition.features.middle, both.features.middle, strict=True):
        assert two.shape == (4, *one.shape[1:])
        assert torch.equal(two[:2], one)
        assert not two[2:].any()


def test_guidance_extrapolates_from_the_absent_condition():
    method = legopet()
    condition = method.condition(images(2))
    x, t = images(2, seed=5), torch.tensor([100, 900])
    conditional = method._denoise(x, t, condition)
    unconditional = method._denoise(x, t, condition.times(torch.zeros(2)))
    assert torch.equal(method._guided(condition, 0.0)(x, t), conditional)
    expected = 1.5 * conditional - 0.5 * unconditional
    assert torch.allclose(method._guided(condition, 0.5)(x, t), expected, atol=1e-4)
    assert not torch.allclose(conditional, unconditional)


@SCHEDULES
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "sampler",
    [
        {"sampler": "ddpm", "steps": 1000},
        {"sampler": "ddim", "steps": 50, "eta": 0.0},
        {"sampler": "ddim", "steps": 20, "eta": 1.0},
        {"sampler": "dpm-solver++", "steps": 20},
    ],
)
def test_samplers_recover_the_image_of_an_oracle(sampler, prediction, noise_schedule):
    x0 = to_signed(images())

    def oracle(x, t):
        a = alpha_bar(t, noise_schedule)[:, None, None, None]
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        v = a.sqrt() * eps - (1 - a).sqrt() * x0
        return {"epsilon": eps, "sample": x0, "v_prediction": v}[prediction]

    schedule = replace(OWN, noise_schedule=noise_schedule)
    found = sample(oracle, x0, KEYS, schedule, prediction, sampling(**sampler), seed=1)
    assert torch.allclose(found, x0, atol=2e-3)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_samples_stay_in_the_range_of_the_data(sampler, prediction):
    few = sampling(sampler=sampler, steps=5, eta=0.0)
    found = sample(lambda x, t: 50 * x, images(), KEYS, OWN, prediction, few, seed=1)
    assert found.abs().max() <= 1 + 1e-4


def test_samples_have_one_channel_however_many_the_condition_has():
    method = legopet(["sinogram", "fbp"])
    inputs = images(channels=2)
    other = inputs.clone()
    other[:, 1] *= 2
    with torch.no_grad():
        found, changed = (method.predict(x, KEYS, sampling(samples=2), 1) for x in (inputs, other))
    assert found.shape == (4, 2, SIZE, SIZE)
    assert not torch.allclose(found, changed, atol=1e-3)


def test_samples_of_a_slice_differ_and_the_first_does_not_depend_on_their_number():
    method = legopet()
    with torch.no_grad():
        one, three = (method.predict(images(), KEYS, sampling(samples=k), 1) for k in (1, 3))
    assert three.shape == (4, 3, SIZE, SIZE)
    assert torch.equal(three[:, :1], one)
    assert not torch.allclose(three[:, 0], three[:, 1], atol=1e-2)
    assert not torch.allclose(three[:, 1], three[:, 2], atol=1e-2)


@pytest.mark.parametrize(
    "sampler",
    [
        {"sampler": "ddpm", "steps": 5, "samples": 2},
        {"steps": 5, "eta": 1.0},
        {"sampler": "dpm-solver++", "steps": 5, "samples": 2},
    ],
)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    method, options = legopet(), sampling(**sampler)
    with torch.no_grad():
        whole = method.predict(images(), KEYS, options, 1)
        order = [3, 1, 0, 2]
        shuffled = method.predict(images()[order], [KEYS[i] for i in order], options, 1)
        alone = torch.cat(
            [method.predict(images()[i : i + 1], KEYS[i : i + 1], options, 1) for i in range(4)]
        )
        other = method.predict(images(), KEYS, options, 2)
    assert torch.allclose(shuffled, whole[order], atol=1e-4)
    assert torch.allclose(alone, whole, atol=1e-4)
    assert not torch.allclose(other, whole, atol=1e-2)


def test_features_are_computed_once_per_sample():
    method, calls = legopet(), []
    plain = method.frozen.features
    method.frozen.features = lambda x: calls.append(1) or plain(x)
    method.predict(images(), KEYS, sampling(steps=5, samples=3), 1)
    assert len(calls) == 1


def test_pnpnet_in_legopet_is_frozen_and_not_counted():
    method = legopet()
    alone = CDPM(NETWORK, CDPM_OWN)
    assert method.parameter_count() == alone.parameter_count()
    assert not any(p.requires_grad for p in method.frozen.parameters())
    assert not method.frozen.training
    loss_of(method, Batch(images(), images(), KEYS), 0).backward()
    assert all(p.grad is None for p in method.frozen.parameters())
    assert all(p.grad is not None for p in method.network.parameters())


def test_legopet_without_features_says_so():
    method = LegoPET(NETWORK, OWN)
    with pytest.raises(TypeError, match="use_frozen"):
        method.condition(images())


def test_only_methods_for_that_take_others():
    method = PnPNet(NETWORK, own_settings("PnPNet"))
    with pytest.raises(TypeError, match="PnPNet uses no network of PnPNet"):
        method.use_frozen(method)


def test_steps_must_divide_the_timesteps():
    with pytest.raises(InputError, match=r"sampling\.steps: 30 does not divide 1000"):
        make_sampler(OWN, sampling(steps=30))


def test_ddpm_takes_all_steps_from_the_last_to_the_first():
    scheduler, _ = make_sampler(OWN, sampling(sampler="ddpm", steps=1000))
    assert scheduler.timesteps.tolist() == list(range(999, -1, -1))
    scheduler, _ = make_sampler(OWN, sampling(sampler="ddim", steps=4))
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_condition_of_plain_diffusion_has_no_features():
    condition = CDPM(NETWORK, CDPM_OWN).condition(images(1))
    assert condition == Condition(condition.inputs, None)
    assert condition.followed_by_zeros().features is None


def test_features_map_keeps_the_structure():
    features = Features((torch.ones(1), torch.ones(2)), (torch.ones(3),))
    doubled = features.map(lambda f: 2 * f)
    assert [f.sum() for f in doubled.down + doubled.middle] == [2, 4, 6]
