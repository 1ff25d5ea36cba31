"""OpenAI's Responses API: its items, events and stored responses. Only this folder knows them."""
