/**
 * Makes pi an agent of Regrow: its tools, its messages, and what it tells, over the gateway's HTTP door.
 *
 * It serves pi 0.73 to 1.5 and imports nothing of it. Everything is asked for again until it is answered: calls carry
 * pi's own ids, entries ids of their own, so nothing is done twice. In pi's session file stand, as custom entries
 * `regrow`: `{session}`, which start of the agent what follows belongs to; `{seen}`, the last message that the
 * conversation holds; `{result}`, the answer to a call that an earlier start did not live to see.
 */

import { createHash, randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const url = process.env.REGROW_AGENT_URL ?? "";
const token = process.env.REGROW_AGENT_TOKEN ?? "";
const session = Number(process.env.REGROW_AGENT_SESSION ?? "0");
const deliverAs = process.env.REGROW_PI_DELIVER === "followUp" ? "followUp" : "steer";

const AGAIN = new Set([202, 429, 500, 502, 503, 504]);
const OVER = new Set(["unauthorized", "agent-ended", "session-over"]);
const BROKEN = 8; // times that a gateway may fail at a request before that is its answer
const PATIENCE = 240; // seconds of one request for an answer; node gives up after 300
const INTERRUPTED = "[You were stopped in the middle of your work, and started again. Go on where you were.]";

interface Tool { name: string; description?: string; schema?: object; version?: string }
interface Message { seq: number; text: string; sender?: string }
interface Result { id: string; name: string; text: string; isError: boolean }

/** What outlives this module in its process: pi loads it anew when a person begins another conversation. */
const life: { seen: number; begun: boolean } = ((globalThis as any).regrowAgent ??= { seen: 0, begun: false });

class Over extends Error {}

/** A request that is repeated until the gateway has answered it for good. */
async function ask(path: string, init: RequestInit & { headers?: Record<string, string> } = {}) {
	let broken = 0;
	for (let wait = 50; ; wait = Math.min(wait * 2, 2000)) {
		init.signal?.throwIfAborted();
		try {
			const answer = await open(path, init);
			if (answer.status === 500) broken += 1;
			if (!AGAIN.has(answer.status) || broken > BROKEN) {
				return { status: answer.status, data: await answer.json() };
			}
			await answer.body?.cancel();
			if (answer.status === 202) wait = 50;
		} catch (error) {
			if (error instanceof Over) throw error;
			init.signal?.throwIfAborted();
		}
		await sleep(wait, undefined, { signal: init.signal ?? undefined });
	}
}

/** One request. Throws Over when the doors are closed to this session for good. */
async function open(path: string, init: RequestInit & { headers?: Record<string, string> } = {}) {
	const own = { authorization: `Bearer ${token}`, "regrow-session": String(session) };
	const answer = await fetch(url + path, { ...init, headers: { ...own, ...init.headers } });
	if ([401, 403, 409].includes(answer.status)) {
		const { error } = await answer.clone().json().catch(() => ({ error: { code: "", message: "" } }));
		if (OVER.has(error?.code)) throw new Over(error.message);
	}
	return answer;
}

/** Call a tool; what the model is to read. `of` is the start of the agent that made the call. */
async function call(name: string, id: string, args: unknown, of: number, signal?: AbortSignal) {
	const key = /^[\x21-\x7e]{1,200}$/.test(id) ? id : createHash("sha256").update(id).digest("hex");
	const headers: Record<string, string> = { "content-type": "application/json", "regrow-call": key };
	if (of !== session) headers["regrow-call-session"] = String(of);
	const path = `/tools/${encodeURIComponent(name)}?wait=${PATIENCE}`;
	const { status, data } = await ask(path, { method: "POST", headers, body: JSON.stringify(args ?? {}), signal });
	if (status !== 200) return { text: String(data?.error?.message ?? `The gateway answered ${status}`), isError: true };
	return { text: typeof data === "string" ? data : JSON.stringify(data, undefined, 2), isError: false };
}

/** Server-sent events of a stream, as they come. */
async function* events(body: AsyncIterable<Uint8Array>) {
	const decoder = new TextDecoder();
	let text = "";
	for await (const piece of body) {
		text += decoder.decode(piece, { stream: true });
		for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
			const fields: Record<string, string> = {};
			for (const line of text.slice(0, end).split("\n")) {
				const colon = line.indexOf(":");
				if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
			}
			text = text.slice(end + 2);
			if (fields.event) yield { type: fields.event, data: JSON.parse(fields.data ?? "null") };
		}
	}
}

export default async function regrow(pi: any) {
	if (!url || !token) return; // somebody else's pi
	const stop = new AbortController();
	const { signal } = stop;
	let context: any;
	let over = "";

	function end(reason: string) {
		over = reason;
		stop.abort();
		context?.shutdown();
	}
	/** Run something until this extension is unloaded. */
	function run(work: Promise<unknown>) {
		work.catch((error) => {
			if (error instanceof Over) end(error.message);
			else if (!signal.aborted) tell("note", { error: String(error?.stack ?? error) });
		});
	}

	// tools -------------------------------------------------------------------------------------------------------

	const known = new Map<string, string>();
	let stale = false; // a run has the tools that there were when it began

	function register(tools: Tool[]) {
		const gone = new Set(known.keys());
		for (const tool of tools) {
			gone.delete(tool.name);
			const version = tool.version || JSON.stringify(tool);
			if (known.get(tool.name) === version) continue;
			known.set(tool.name, version);
			stale = running;
			const description = tool.description || tool.name;
			pi.registerTool({
				name: tool.name,
				label: tool.name,
				description,
				promptSnippet: description.split("\n")[0].slice(0, 200),
				parameters: tool.schema ?? { type: "object" },
				async execute(id: string, args: unknown, aborted?: AbortSignal) {
					const either = aborted ? AbortSignal.any([aborted, signal]) : signal;
					const { text, isError } = await call(tool.name, id, args, session, either).catch((error) => {
						if (error instanceof Over) end(error.message);
						throw error;
					});
					if (isError) throw new Error(text);
					return { content: [{ type: "text", text }], details: {} };
				},
			});
		}
		if (!context) return; // pi takes none away before it has begun, and nothing was there before
		const active = new Set<string>(pi.getActiveTools());
		for (const name of gone) {
			known.delete(name);
			active.delete(name);
		}
		for (const name of known.keys()) active.add(name);
		pi.setActiveTools([...active]);
	}
	async function refresh() {
		const { status, data } = await ask("/tools", { signal });
		if (status === 200) register(data.tools);
	}

	// what it tells -----------------------------------------------------------------------------------------------

	const own = randomUUID().slice(0, 8);
	const entries: object[] = [];
	let told = 0;
	let telling = Promise.resolve();

	function tell(type: string, data: object) {
		entries.push({ type, id: `${own}-${++told}`, data });
		telling = telling.then(async () => {
			const part = entries.slice(0, 100);
			if (!part.length || over) return;
			const headers = { "content-type": "application/json" };
			await ask("/entries", { method: "POST", headers, body: JSON.stringify(part), signal }).catch((error) => {
				if (error instanceof Over) end(error.message);
			});
			entries.splice(0, part.length);
		});
	}

	// messages ----------------------------------------------------------------------------------------------------

	const waiting: { seq: number; text: string }[] = [];
	const given: { seq: number; text: string }[] = []; // to pi, but not in the conversation yet
	let heard = 0;
	let recorded = 0;
	let running = false;
	let tools = 0; // under way: pi asks for more messages after them for sure
	let began: (() => void) | undefined;
	let pumping = false;

	async function listen() {
		for (let wait = 50; !signal.aborted; wait = Math.min(wait * 2, 2000)) {
			try {
				const answer = await open(`/messages?after=${heard}`, { headers: { accept: "text/event-stream" }, signal });
				if (answer.ok && answer.body) {
					context?.ui?.setStatus?.("regrow", `regrow: ${process.env.REGROW_AGENT_NAME}`);
					for await (const { type, data } of events(answer.body as any)) {
						wait = 50;
						if (type === "message") take(data);
						else if (type === "tools") register(data.tools);
						else if (type === "ended") throw new Over(data.reason);
						else if (type === "bye") break;
					}
				}
			} catch (error) {
				if (error instanceof Over) throw error;
			}
			if (signal.aborted) return;
			context?.ui?.setStatus?.("regrow", "regrow: looking for the gateway");
			await sleep(wait, undefined, { signal }).catch(() => {});
		}
	}
	function take(message: Message) {
		if (message.seq <= heard) return;
		heard = message.seq;
		const text = message.sender ? `Message from ${message.sender}:\n\n${message.text}` : message.text;
		waiting.push({ seq: message.seq, text });
		run(pump());
	}
	/** Give pi what waits, when it is sure to take it: while it is idle, or while a tool of its runs. */
	async function pump() {
		if (pumping) return;
		pumping = true;
		try {
			while (waiting.length && !signal.aborted) {
				await refresh(); // a message may speak of a tool that is new
				if (running) {
					if (!tools || stale) return;
					give(waiting.shift()!);
				} else if (!context.isIdle()) {
					await sleep(20);
				} else {
					const start = new Promise<void>((resolve) => { began = resolve; });
					const next = waiting.shift()!;
					const reason = helpless();
					give(next);
					await Promise.race([start, sleep(reason ? 1_000 : 10_000, undefined, { signal })]);
					if (!running && given.includes(next)) {
						tell("note", { error: `pi did not take a message${reason && `: ${reason}`}`, seq: next.seq });
					}
				}
			}
		} finally {
			pumping = false;
		}
	}
	/** Why pi cannot ask a model; it only says so on its screen. */
	function helpless() {
		const { model, modelRegistry } = context;
		if (!model) return "it has no model; a login or an API key is missing";
		if (modelRegistry?.hasConfiguredAuth?.(model) !== false) return "";
		return `it has no login and no API key for ${model.provider}`;
	}
	function give(message: { seq: number; text: string }) {
		if (message.seq) given.push(message);
		pi.sendUserMessage(message.text, { deliverAs });
	}
	function reached(text: string) {
		const at = given.findIndex((each) => each.text === text);
		if (at >= 0) life.seen = Math.max(life.seen, given.splice(0, at + 1)[at].seq);
	}

	// the conversation that there is already -----------------------------------------------------------------------

	const results = new Map<string, Result>();

	/** Read the session; what was under way when an earlier start of this agent was ended is asked for again. */
	async function resume() {
		const restarted = !life.begun;
		life.begun = true;
		const open = new Map<string, { name: string; args: unknown; of: number }>();
		let of = 0;
		let finished = true;
		for (const entry of context.sessionManager.getBranch()) {
			if (entry.type === "custom" && entry.customType === "regrow") {
				const { session: number, seen: mark, result } = entry.data ?? {};
				if (number) of = number;
				if (mark) life.seen = Math.max(life.seen, mark);
				if (result) results.set(result.id, result);
			} else if (entry.type === "message") {
				const { role, content, stopReason, toolCallId } = entry.message;
				if (role === "toolResult") open.delete(toolCallId);
				if (role === "user" || role === "toolResult") finished = false;
				if (role !== "assistant") continue;
				open.clear();
				finished = stopReason !== "toolUse" && stopReason !== "error" && stopReason !== "aborted";
				for (const block of content) {
					if (block.type === "toolCall") open.set(block.id, { name: block.name, args: block.arguments, of });
				}
			}
		}
		heard = life.seen;
		recorded = life.seen;
		pi.appendEntry("regrow", { session, seen: life.seen });
		if (!restarted) return;
		const again = [...open].filter(([id, each]) => known.has(each.name) && each.of && !results.has(id));
		await Promise.all(again.map(async ([id, { name, args, of }]) => {
			const result = { id, name, ...(await call(name, id, args, of, signal)) };
			results.set(id, result);
			pi.appendEntry("regrow", { result });
		}));
		if (!finished) waiting.push({ seq: 0, text: INTERRUPTED });
	}

	pi.on("context", (event: any) => {
		if (!results.size) return;
		const there = new Set(event.messages.filter((m: any) => m.role === "toolResult").map((m: any) => m.toolCallId));
		const messages = event.messages.flatMap((message: any) => {
			const calls = message.role === "assistant" ? message.content.filter((b: any) => b.type === "toolCall") : [];
			const missing = calls.map((b: any) => results.get(b.id)).filter((r?: Result) => r && !there.has(r.id));
			return [message, ...missing.map((r: Result) => ({
				role: "toolResult", toolCallId: r.id, toolName: r.name, isError: r.isError,
				content: [{ type: "text", text: r.text }], timestamp: message.timestamp,
			}))];
		});
		return { messages };
	});

	// pi's life ---------------------------------------------------------------------------------------------------

	pi.on("session_start", (_: any, ctx: any) => {
		context = ctx;
		if (over) return ctx.shutdown();
		run(resume().then(async () => {
			run(pump());
			await listen();
		}));
	});
	pi.on("session_shutdown", async () => {
		await Promise.race([telling, sleep(1000)]);
		stop.abort();
	});
	pi.on("agent_start", (_: any, ctx: any) => {
		context = ctx;
		running = true;
		stale = false;
		tools = 0;
		began?.();
	});
	pi.on("agent_end", () => {
		running = false;
		tools = 0;
		run(pump());
	});
	pi.on("turn_start", () => {
		tools = 0;
		tell("turn", { state: "started" });
	});
	pi.on("turn_end", () => {
		tell("turn", { state: "ended" });
	});
	pi.on("tool_call", () => {
		tools += 1;
		run(pump());
	});
	pi.on("tool_result", () => {
		tools = Math.max(tools - 1, 0);
	});
	pi.on("message_start", (event: any) => {
		if (event.message.role !== "assistant" || recorded === life.seen) return;
		recorded = life.seen; // what was said before stands in the session by now
		pi.appendEntry("regrow", { seen: life.seen });
	});
	pi.on("message_end", (event: any) => {
		const { role, content, usage, model, stopReason, errorMessage } = event.message;
		const parts = typeof content === "string" ? [{ type: "text", text: content }] : (content ?? []);
		const text = parts.filter((b: any) => b.type === "text").map((b: any) => b.text).join("\n");
		if (role === "user") return reached(text);
		if (role !== "assistant") return;
		if (text.trim()) tell("text", { text });
		if (stopReason === "error") tell("note", { error: errorMessage ?? "the model failed" });
		if (usage) {
			tell("usage", {
				model, input: usage.input, output: usage.output, cache_read: usage.cacheRead,
				cache_write: usage.cacheWrite, cost: usage.cost?.total ?? 0,
			});
		}
	});

	try {
		await refresh();
	} catch (error) {
		if (!(error instanceof Over)) throw error;
		over = error.message;
	}
}
