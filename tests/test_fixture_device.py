"""The fixtures device, torchcheck_device and torchcheck_generator."""

import pytest

LOSES = """
    import pytest
    import torch

    def test_one_that_loses_it(device):
        assert device == torch.device("cuda:0")

    def test_two_that_comes_after(device):
        pass

    def test_three_that_needs_no_device():
        pass
"""


@pytest.fixture
def failing_cuda(fake_cuda, monkeypatch):
    """Return a function that makes waiting for the fake GPU raise, every time or once."""
    import torch

    def fail(*, times=None):
        fake_cuda()
        left = [times]

        def synchronize(device):
            if left[0] == 0:
                return
            left[0] = None if left[0] is None else left[0] - 1
            raise RuntimeError("CUDA error: device-side assert triggered")

        monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)

    return fail


def test_both_names_give_the_same_device(run, fake_cuda):
    """A test that asks for device and torchcheck_device gets one and the same, once per device."""
    fake_cuda(count=2)
    result = run(
        """
        import torch

        def test_both(device, torchcheck_device):
            assert isinstance(device, torch.device)
            assert device == torchcheck_device

        def test_long_name(torchcheck_device):
            pass
        """,
        "-v",
    )
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*test_both[[]cuda:1] PASSED*", "*test_long_name[[]cpu] PASSED*"])


def test_device_goes_with_other_parameters(run, no_cuda):
    """The device multiplies with the parameters that a test has of its own."""
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("size", [1, 2])
        def test_sizes(device, size):
            pass
        """,
        "--torchcheck-devices=cpu",
    )
    result.assert_outcomes(passed=2)


def test_fixture_of_a_suite_can_build_on_device(run, no_cuda):
    """A suite's own fixture may ask for device; its tests run once per device."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def model(device):
            return str(device)

        def test_model(model):
            assert model == "cpu"
        """
    )
    result.assert_outcomes(passed=1, skipped=1)


def test_device_is_waited_for_at_the_end_of_its_test(run, fake_cuda, monkeypatch):
    """Each test that used the device ends with waiting for it, after its own fixtures are torn down."""
    import torch

    fake_cuda()
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: print("waited for", device))
    result = run(
        """
        import pytest

        @pytest.fixture
        def model(device):
            yield
            print("model gone")

        def test_model(model):
            print("test done")
        """,
        "--torchcheck-devices=cuda:0",
        "-s",
    )
    result.stdout.fnmatch_lines(["*test done", "*model gone", "waited for cuda:0"], consecutive=True)


def test_late_error_lands_on_the_test_that_caused_it(run, failing_cuda):
    """An error that the device reports late is an error of the test that used it; later tests go on."""
    failing_cuda(times=1)
    result = run(LOSES, "--torchcheck-devices=cuda:0")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_one_that_loses_it*",
            "work that this test queued on cuda:0 failed there: CUDA error: device-side assert triggered",
            "  cuda:0 still answers; later tests are not affected",
        ]
    )


def test_lost_device_is_recognized_and_blamed_on_one_test(run, failing_cuda):
    """After a context is lost, later tests on the device fail at once and name the test that lost it."""
    failing_cuda()
    result = run(LOSES, "--torchcheck-devices=cuda:0")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(
        [
            "  cuda:0 is lost to this process: whatever uses it from now on fails too",
            "*ERROR at setup of test_two_that_comes_after*",
            "cuda:0 is lost to this process since *::test_one_that_loses_it[[]cuda:0]: "
            "run with --torchcheck-isolate=yes",
        ]
    )


def test_late_request_is_served_when_there_is_no_choice(run, no_cuda):
    """getfixturevalue("device") gives the only device that works."""
    result = run("def test_late(request): assert str(request.getfixturevalue('device')) == 'cpu'")
    result.assert_outcomes(passed=1)


def test_late_request_with_a_choice_fails_with_advice(run, fake_cuda):
    """getfixturevalue("device") fails where the test should have run on several devices, and says what to do."""
    fake_cuda()
    result = run("def test_late(request): request.getfixturevalue('device')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "device is asked for while the test runs, too late to run it on each of cpu, cuda:0: "
            "name it among the test's arguments"
        ]
    )


def test_generator_lives_on_the_device_of_the_test(run, no_cuda):
    """The generator is on the test's device and starts from the test's seed."""
    result = run(
        """
        def test_generator(device, torchcheck_generator, torchcheck_seed):
            assert torchcheck_generator.device == device
            assert torchcheck_generator.initial_seed() == torchcheck_seed
        """
    )
    result.assert_outcomes(passed=1, skipped=1)


def test_generator_without_a_device_is_on_the_cpu(run, no_cuda):
    """A test that asks for the generator alone runs once, on the CPU."""
    result = run("def test_alone(torchcheck_generator): assert torchcheck_generator.device.type == 'cpu'")
    result.assert_outcomes(passed=1)


def test_generator_follows_a_device_of_the_suite(run, no_cuda):
    """A device that the test parametrizes itself counts for the generator; one that is missing skips the test."""
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("device", ["cpu", "cuda"])
        def test_own(device, torchcheck_generator):
            assert torchcheck_generator.device.type == device
        """
    )
    result.assert_outcomes(passed=1, skipped=1)


def test_generator_refuses_a_device_that_is_none(run, no_cuda):
    """A device of the suite that is no torch device fails the test that asks for a generator on it."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def device():
            return "iPhone 11"

        def test_own(device, torchcheck_generator):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["there is no device named 'iPhone 11'; valid are auto, all, cpu,*"])


def test_without_torch_every_way_to_a_device_says_so(run, monkeypatch):
    """Where torch cannot be imported, each fixture that needs it fails with that one sentence."""
    for module in ("lending", "selection"):
        monkeypatch.setattr(f"pytest_torchcheck.{module}.torch_problem", lambda: "torch is not installed")
    result = run(
        """
        def test_device(device): pass
        def test_late(request): request.getfixturevalue("device")
        def test_generator(torchcheck_generator): pass
        def test_seed(torchcheck_seed): pass
        """,
        "-rA",
    )
    result.assert_outcomes(passed=1, failed=1, errors=2)
    assert sum(line == "torch is not installed" for line in result.outlines) == 3
