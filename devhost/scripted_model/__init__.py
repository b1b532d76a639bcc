"""A language model that does what its prompt says, so that runs, tests and demos need no account anywhere.

It speaks OpenAI's chat completions (`POST /dev/model/v1/chat/completions`, `GET /dev/model/v1/models`) and notes every
request, down to the moment of each token, in `GET /dev/model/log`: what a cancelled run must not do shows there.

Without directives it gives a short answer that quotes the prompt's first words: about 40 tokens, 20 ms apart. Directives
stand in double square brackets anywhere in the last user message; several add up, the later one wins:

    [[tokens=200 delay=20ms first=50ms]]    200 tokens of text, 20 ms apart, the first after 50 ms
    [[say=some text]]                       exactly this text, up to the brackets (so `say` comes last in its directive)
    [[tool=look_up arguments={"a": 1}]]     a call of this tool instead of text; several `tool` in one directive are
                                            parallel calls. With several such directives each is one turn: the second
                                            is for the request that holds the first one's result. Then comes text.
    [[hang]]                                accept the request and send nothing, for as long as the client stays
    [[hang_after=5]]                        send 5 tokens, then nothing
    [[cut_after=5]]                         send 5 tokens, then close the connection
    [[status=429 retry_after=1]]            answer with this error status (400 to 599) and `Retry-After`
    [[… times=2 key=a]]                     the last four only for the first 2 requests with this key (else: this prompt)

Durations are `20ms`, `1.5s` or plain seconds, at most 60 s; tokens at most 100,000. A request's `max_tokens` cuts text
short (`finish_reason` "length"). Double brackets that don't begin with one of these words are text like any other; a
directive that can't be understood is answered 400.
"""

from devhost.scripted_model.server import ScriptedModel

__all__ = ["ScriptedModel"]
