// Writes a note on the city args[0], refuses and then allows to delete it.
import { args, connect, print } from './connect.mjs';

const city_id = Number(args[0]);
const answers = [{ action: 'decline' }, { action: 'accept', content: { confirm: true } }];
const questions = [];
const client = await connect({
    answer: params => {
        questions.push(params);
        return answers[questions.length - 1];
    }
});
const notes = async () => (await client.callTool({ name: 'list_notes', arguments: { city_id } })).structuredContent.rows.length;
await client.callTool({ name: 'add_note', arguments: { city_id, text: 'From the TypeScript client.' } });
const declined = await client.callTool({ name: 'delete_notes', arguments: { city_id } });
const between = await notes();
const accepted = await client.callTool({ name: 'delete_notes', arguments: { city_id } });
print({ questions, declined, between, accepted, after: await notes() });
await client.close();
