// Reads the resource, gets the prompt and completes its argument.
import { connect, print } from './connect.mjs';

const client = await connect();
const { resourceTemplates } = await client.listResourceTemplates();
const { contents } = await client.readResource({ uri: 'city://2950159' });
const { prompts } = await client.listPrompts();
const prompt = await client.getPrompt({ name: 'plan_trip', arguments: { city: 'Berlin' } });
const { completion } = await client.complete({
    ref: { type: 'ref/prompt', name: 'plan_trip' },
    argument: { name: 'city', value: 'Berl' }
});
print({
    templates: resourceTemplates.map(template => template.uriTemplate),
    resource: contents[0],
    prompts: prompts.map(prompt => prompt.name),
    prompt: prompt.messages[0].content.text,
    completion: completion.values
});
await client.close();
