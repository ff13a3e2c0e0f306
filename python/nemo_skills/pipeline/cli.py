"""The pipeline verbs as functions. Keywords are the options of `ns VERB --help`; see python/README.md."""
from nemo_skills import _ns


class Experiment:
    """What a call has submitted. str(experiment) is its id, which run_after and reuse_code_exp take."""

    def __init__(self, result):
        self.id = result["id"]
        self.dir = result["dir"]

    def __str__(self):
        return self.id

    def __repr__(self):
        return "Experiment(%r)" % self.id


class Arguments:
    """Words for the program that runs in the job, as one text."""

    def __init__(self, text):
        self.text = text


def wrap_arguments(arguments):
    return Arguments(arguments)


def _words(options):
    words = []
    for name, value in options.items():
        if value is None:
            continue
        if value is True or value is False:
            words.append("--%s%s" % ("" if value else "no-", name))
        elif isinstance(value, (list, tuple)) and name == "run_after":
            words += ["--run_after=%s" % one for one in value]
        elif isinstance(value, (list, tuple)):
            words.append("--%s=%s" % (name, ",".join(str(one) for one in value)))
        else:
            words.append("--%s=%s" % (name, getattr(value, "value", value)))
    return words


def _call(verb, ctx, options, positional=()):
    env = None
    if isinstance(options.get("cluster"), dict):
        import json

        env = {"NS_CLUSTER_INLINE": json.dumps(options.pop("cluster"))}
    words = [verb] + _words(options)
    if ctx is not None and ctx.text:
        words.append("--ctx=%s" % ctx.text)
    result = _ns.call(words + list(positional), env)
    return Experiment(result) if result.get("id") else None


def train(ctx=None, **options):
    if "average_steps" in options and options["average_steps"] is None:
        options["average_steps"] = ""  # None means: no averaging
    return _call("train", ctx, options)


def convert(ctx=None, **options):
    return _call("convert", ctx, options)


def eval(ctx=None, **options):
    return _call("eval", ctx, options)


def generate(ctx=None, **options):
    return _call("generate", ctx, options)


def run_cmd(ctx=None, **options):
    return _call("run_cmd", ctx, options)


def check_contamination(ctx=None, **options):
    return _call("check_contamination", ctx, options)


def start_server(**options):
    return _call("start_server", None, options)


def summarize_results(results_dir=None, **options):
    return _call("summarize_results", None, options, [] if results_dir is None else [results_dir])


def setup(**options):
    return _call("setup", None, options)
