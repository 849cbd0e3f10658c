// What npm's clients make of a gateway's answers, as JSON: a chat, a stream, a call of a tool, an object, tokens.
const OpenAI = require("openai");
const { generateText, streamText, generateObject, tool } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { z } = require("zod");

const baseURL = process.env.BASE_URL, apiKey = process.env.API_KEY;
const prompt = "count to three", messages = [{ role: "user", content: prompt }];
const schema = { type: "object", properties: { number: { type: "integer" } }, required: ["number"] };

async function withOpenai() {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 }), model = "auto";
  const whole = await client.chat.completions.create({ model, messages });
  let stream = "", total = 0;
  const options = { include_usage: true };
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, stream_options: options })) {
    stream += chunk.choices[0]?.delta?.content ?? "";
    total = chunk.usage?.total_tokens ?? total;
  }
  const tools = [{ type: "function", function: { name: "count", parameters: schema } }];
  const runner = client.chat.completions.stream({ model, messages, tools });
  const called = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function.arguments;
  const response_format = { type: "json_schema", json_schema: { name: "count", schema } };
  const object = (await client.chat.completions.create({ model, messages, response_format })).choices[0].message.content;
  return { chat: whole.choices[0].message.content, stream, tools: JSON.parse(called), object: JSON.parse(object), total };
}

async function withAi() {
  const provider = createOpenAICompatible({ name: "roster", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true });
  const model = provider.chatModel("auto"), maxRetries = 0;
  const whole = await generateText({ model, prompt, maxRetries });
  const streamed = streamText({ model, prompt, maxRetries });
  let stream = "";
  for await (const part of streamed.textStream) stream += part;
  const tools = { count: tool({ description: "counts", inputSchema: z.object({ number: z.number() }) }) };
  const called = await generateText({ model, prompt, tools, maxRetries });
  const { object } = await generateObject({ model, prompt, schema: z.object({ number: z.number() }), maxRetries });
  const total = (await streamed.usage).totalTokens;
  return { chat: whole.text, stream, tools: called.toolCalls[0].input, object, total };
}

(async () => console.log(JSON.stringify({ openai: await withOpenai(), ai: await withAi() })))();
