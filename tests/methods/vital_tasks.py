"""What tests of VITAL share: a fitted task, a part of one, one of so many steps, and a memory that keeps count."""


def fitted(method, task):
    return task.replace(fitted=method.fit(task))


def part(task, chosen):
    return task.replace(places=task.places[chosen], targets=task.targets[chosen])


def steps_paid(method, task, steps):
    """The same task with a budget for just so many steps."""
    return task.replace(budget=method._share_of_learning(task) + method._passes_of_a_step(task) * steps)


class Memory:
    """Keeps what was learned; knows what was asked for, and what had to be learned."""

    def __init__(self):
        self.kept, self.asked, self.learned = {}, set(), set()

    def __call__(self, what, learn):
        self.asked.add(what)
        if what not in self.kept:
            self.learned.add(what)
            self.kept[what] = dict(learn())
        return self.kept[what]

    def asked_by(self, method, task):
        self.asked, self.learned = set(), set()
        fitted = method.fit(task.replace(remember=self))
        return fitted, self.asked, self.learned

    def of_channel(self, channel):
        (learned,) = [learned for what, learned in self.kept.items() if what.startswith(f"channel {channel} ")]
        return learned
