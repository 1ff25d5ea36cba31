"""POST /v1/responses over SmolLM2: what depends on the model."""

import openai
from responding import COUNT, create


def test_a_last_message_of_the_assistant_is_continued(client: openai.OpenAI) -> None:
    begun = [{"role": "user", "content": COUNT}, {"role": "assistant", "content": "a b c d e f"}]
    assert create(client, begun, model="smollm2").output_text.startswith(" g h")
