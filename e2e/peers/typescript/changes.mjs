// Says "listening", waits for notifications/tools/list_changed and prints the tools of then.
import { connect, how, print } from './connect.mjs';

let changed;
const heard = new Promise(resolve => (changed = resolve));
const client = await connect(
    how === 'auto' ? { listChanged: { tools: { autoRefresh: false, debounceMs: 0, onChanged: () => changed() } } } : {}
);
if (how !== 'auto') client.setNotificationHandler('notifications/tools/list_changed', () => changed());
await client.listTools();
print('listening');
await heard;
const { tools } = await client.listTools({}, { cacheMode: 'refresh' });
print(tools.map(tool => tool.name));
await client.close();
