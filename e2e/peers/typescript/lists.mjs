// Lists the tools, calls one that reads and one that does not exist.
import { connect, print } from './connect.mjs';

const client = await connect();
const { tools } = await client.listTools();
const city = await client.callTool({ name: 'get_city', arguments: { id: 2950159 } });
const search = await client.callTool({ name: 'search_cities', arguments: { name: 'Berlin', country: 'DE', limit: 2 } });
const near = await client.callTool({ name: 'nearest_cities', arguments: { latitude: 52.52, longitude: 13.41, limit: 2 } });
const country = await client.callTool({ name: 'country_statistics', arguments: { country: 'DE' } });
let unknown = null;
try {
    await client.callTool({ name: 'no_such_tool', arguments: {} });
} catch (error) {
    unknown = error.code ?? error.message;
}
print({
    version: client.getNegotiatedProtocolVersion(),
    era: client.getProtocolEra(),
    tools: tools.map(tool => tool.name).sort(),
    city: city.structuredContent,
    text: city.content[0].text,
    rows: [search, near, country].map(result => result.structuredContent.rows.length),
    unknown
});
await client.close();
