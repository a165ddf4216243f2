"""The scripts of the Redis stores: each does to a session, in Redis, what a verb of `stores.base` says, and nothing in between is seen.

They do exactly what `changes.apply`, `apply_use` and `apply_touch` do, at the caller's `now`, and what they store is what `Record.pack`
gives, to the byte; a test compares them. Keys and arguments are described in `redis_verbs`: KEYS[1] is the session, KEYS[2] the sorted set
of its bucket. Numbers are packed, so that none loses precision. In a script that changes a session the first write is the session itself:
it is what a server refuses that is full or read-only, and then nothing has been applied. What is needed to read sessions and to get rid of
them is done by a full server all the same: see `though_full`.
"""

from __future__ import annotations

from hashlib import sha1
from typing import final

KEEP = 86_400
"""Seconds for which a session that is over is kept for a sweep to find it."""
KEEP_HOOKED = 8 * 86_400
"""The same where hooks have to run: the default of `reap_grace`, and a day."""

_PRELUDE = r"""
local band, bor = bit.band, bit.bor
local DAMAGED = 'damaged'
local NO_TAG = string.rep('\0', 16)

-- What pcall gave. WRONGTYPE is another program's doing, and passed over; what the server refuses for another reason (ACL) is an error.
local function checked(reply)
  if type(reply) == 'table' and reply.err and not reply.err:find('WRONGTYPE', 1, true) then error(reply) end
  return reply
end

-- The head of a packed record (see record.py), and where the fields begin; nil if it is none.
local function parse(packed)
  if type(packed) ~= 'string' or #packed < 84 or packed:byte(1) ~= 1 then return nil end
  local s, _, length, at = {}
  _, s.flags, length, s.digest, s.tag, s.created, s.used, s.timeout, s.granularity, s.revision, at =
    struct.unpack('<BBBc32c16dddfI4', packed)
  local size = 83 + length
  if band(s.flags, 64) ~= 0 then size = size + 56 end
  if band(s.flags, 128) ~= 0 then size = size + 8 end
  if band(s.flags, 8) ~= 0 then size = size + 17 end
  if #packed <= size then return nil end
  s.address, at = packed:sub(at, at + length - 1), at + length
  if band(s.flags, 64) ~= 0 then s.old_digest, s.old_tag, s.old_until, at = struct.unpack('<c32c16d', packed, at) end
  if band(s.flags, 128) ~= 0 then s.deadline, at = struct.unpack('<d', packed, at) end
  if band(s.flags, 8) ~= 0 then s.reason, s.ended, s.claimed, at = struct.unpack('<Bdd', packed, at) end
  s.at = at
  return s
end

local function build(s)
  local flags, tail = band(s.flags, 55), ''
  if s.old_digest then flags, tail = bor(flags, 64), struct.pack('<c32c16d', s.old_digest, s.old_tag, s.old_until) end
  if s.deadline then flags, tail = bor(flags, 128), tail .. struct.pack('<d', s.deadline) end
  if s.reason then flags, tail = bor(flags, 8), tail .. struct.pack('<Bdd', s.reason, s.ended, s.claimed) end
  return struct.pack('<BBBc32c16dddfI4', 1, flags, #s.address, s.digest, s.tag, s.created, s.used, s.timeout, s.granularity, s.revision)
    .. s.address .. tail
end

-- The session as it is: packed, and its head. Nothing if there is none; DAMAGED if it cannot be read.
local function load()
  local packed = checked(redis.pcall('GET', KEYS[1]))
  if not packed then return nil end
  local s = parse(packed)
  if s then return packed, s end
  return DAMAGED
end

local function store(packed) redis.call('SET', KEYS[1], packed, 'KEEPTTL') end

-- Before a first write that makes room, or needs none to speak of. A server that is full refuses the first write of a script if that may
-- take memory; if it is one that takes none, Redis lets the rest pass too. This one changes nothing, and so is not replicated.
local function though_full() checked(redis.pcall('ZREM', KEYS[2], '')) end

local function due_of(s)
  local idle = s.used + s.timeout + s.granularity
  if s.deadline and not (idle < s.deadline) then return s.deadline end
  return idle
end

local function hooked(s) return band(s.flags, 2) ~= 0 end

local function fresh(s, now)
  local age = now - s.used
  return 0 <= age and age < s.granularity
end

local function use(s, now, timeout, granularity)
  s.used = now
  if band(s.flags, 4) == 0 then s.timeout, s.granularity = timeout, granularity end
end

-- When somebody has to look at the session, and for how many seconds it is kept at most. pcall: an index that is none stops no session.
local function index(due, seconds, how)
  local left = redis.call('PTTL', KEYS[2])
  local score, member = string.format('%.17g', due), KEYS[1]:sub(-32)
  checked(how and redis.pcall('ZADD', KEYS[2], how, score, member) or redis.pcall('ZADD', KEYS[2], score, member))
  if seconds == math.huge then
    redis.call('PERSIST', KEYS[1])
    redis.call('PERSIST', KEYS[2])
  else
    local ms = math.max(1, math.min(seconds, 1e11) * 1000)
    local text = string.format('%.0f', ms)
    redis.call('PEXPIRE', KEYS[1], text)
    if left ~= -1 and left < ms then redis.call('PEXPIRE', KEYS[2], text) end
  end
end

-- A session that has not ended, and came due at `before`: its entry is made sooner if it has to be, and made again if it was lost.
-- One that is over has still to be told of by a sweep, however late somebody changes it.
local function keep(s, now, before)
  local due = due_of(s)
  index(due, math.max(due, now) - now + (hooked(s) and KEEP_HOOKED or KEEP), before and not (due < before) and 'NX')
end

local function drop()
  redis.call('DEL', KEYS[1])
  checked(redis.pcall('ZREM', KEYS[2], KEYS[1]:sub(-32)))
end
"""

_FIELDS = r"""
-- MessagePack, as much of it as records have: maps from text to bytes, and arrays of elements.
local SIZES = {
  [196] = '>B', [197] = '>H', [198] = '>I4', -- bytes
  [217] = '>B', [218] = '>H', [219] = '>I4', -- text
  [220] = '>H', [221] = '>I4', -- arrays
  [222] = '>H', [223] = '>I4', -- maps
}
local INTS = {[204] = '>B', [205] = '>H', [206] = '>I4', [207] = '>I8', [208] = '>b', [209] = '>h', [210] = '>i4', [211] = '>i8'}

-- The length that a head of one of these kinds gives, and what follows; short ones are in the head itself. Raises an error for others.
local function length(packed, at, short, room, least, most)
  local head = packed:byte(at)
  if head >= short and head < short + room then return head - short, at + 1 end
  if head < least or head > most then error('of another type') end
  return struct.unpack(SIZES[head], packed, at + 1)
end

local function bytes(packed, at)
  local size
  size, at = length(packed, at, 0, 0, 196, 198)
  if at + size > #packed + 1 then error('cut off') end
  return packed:sub(at, at + size - 1), at + size
end

local function int(packed, at)
  local head = packed:byte(at)
  if head < 128 then return head, at + 1 end
  if head >= 224 then return head - 256, at + 1 end
  return struct.unpack(INTS[head], packed, at + 1)
end

local function head_of(count, short, two)
  if count < 16 then return string.char(short + count) end
  if count < 65536 then return string.char(two) .. struct.pack('>H', count) end
  return string.char(two + 1) .. struct.pack('>I4', count)
end

-- The names, encoded and in order, and the values by name.
local function fields_of(packed, at)
  local count, names, values, size, last, from = 0, {}, {}
  count, at = length(packed, at, 128, 16, 222, 223)
  for n = 1, count do
    from = at
    size, at = length(packed, at, 160, 32, 217, 219)
    at = at + size
    last = packed:sub(from, at - 1)
    names[n] = last
    values[last], at = bytes(packed, at)
  end
  if at ~= #packed + 1 then error('more than a map') end
  return names, values
end

-- What `fields_of` has taken apart, without the names that have no value any more; and how many fields that are.
local function pack_fields(names, values)
  local parts = {''}
  for _, name in ipairs(names) do
    local value = values[name]
    if value then
      local size = #value
      parts[#parts + 1] = name .. (size < 256 and '\196' .. string.char(size)
        or size < 65536 and '\197' .. struct.pack('>H', size) or '\198' .. struct.pack('>I4', size)) .. value
    end
  end
  local count = #parts - 1
  parts[1] = head_of(count, 128, 222)
  return table.concat(parts), count
end
"""


@final
class Script:
    """A script, and the name under which a server keeps it."""

    def __init__(self, *parts: str) -> None:
        self.text: str = "".join([f"local KEEP, KEEP_HOOKED = {KEEP}, {KEEP_HOOKED}", _PRELUDE, *parts])
        self.sha: str = sha1(self.text.encode()).hexdigest()


CREATE = Script(r"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 'taken' end
redis.call('SET', KEYS[1], ARGV[2])
keep(parse(ARGV[2]), (struct.unpack('<d', ARGV[1])))
return 'created'
""")

OPEN = Script(r"""
local packed, s = load()
if not s then return packed or false end
if s.reason then return false end
local now, timeout, granularity, any = struct.unpack('<ddfB', ARGV[1])
local tag, address = ARGV[2], ARGV[3]
if tag ~= '' and not (band(s.flags, 1) ~= 0 and fresh(s, now))
  -- Equality of digests of random values; the manager decides, in constant time, who is let in.
  and (tag == s.tag or (s.old_digest and now < s.old_until and tag == s.old_tag and tag ~= NO_TAG))
  and (any == 1 or (address ~= '' and address == s.address)) and now < due_of(s) then
  local before, is_fresh = due_of(s), fresh(s, now)
  s.flags = bor(s.flags, 1)
  if not is_fresh then use(s, now, timeout, granularity) end
  local head = build(s)
  though_full()
  redis.call('SETRANGE', KEYS[1], 0, head)
  if not is_fresh then keep(s, now, before) end
  return {is_fresh and 0 or 1, head .. packed:sub(s.at)}
end
return {0, packed}
""")

TOUCH = Script(r"""
local packed, s = load()
if not s then return packed or 0 end
local now, timeout, granularity = struct.unpack('<ddf', ARGV[1])
local due = due_of(s)
if s.reason or now >= due then return 0 end
if ARGV[2] ~= s.digest and not (ARGV[2] == s.old_digest and now < s.old_until and s.old_tag ~= NO_TAG) then return 0 end
local is_fresh = fresh(s, now)
if is_fresh and band(s.flags, 1) ~= 0 then return 1 end
s.flags = bor(s.flags, 1)
if not is_fresh then use(s, now, timeout, granularity) end
though_full()
redis.call('SETRANGE', KEYS[1], 0, build(s))
if not is_fresh then keep(s, now, due) end
return 1
""")

COMMIT = Script(
    _FIELDS,
    r"""
-- The elements of a stored list, as {sequence, flags, packed}; raises an error if it is none.
local function elements(packed)
  if band(packed:byte(7), 2) == 0 then error('no list') end
  local found, count, at = {}
  count, at = length(packed, 8, 144, 16, 220, 221)
  for n = 1, count do
    local from, sequence, flags, _ = at
    if packed:byte(at) ~= 148 then error('no element') end
    sequence, at = int(packed, at + 1)
    _, at = int(packed, at)
    flags, at = int(packed, at)
    _, at = bytes(packed, at)
    found[n] = {sequence, flags, packed:sub(from, at - 1)}
  end
  if at ~= #packed + 1 then error('more than an array') end
  return found
end

local now, timeout, granularity, bits, own_timeout, own_granularity, overlap, max_bytes, max_keys =
  struct.unpack('<ddfBdfdI4I4', ARGV[1])
local packed, s = load()
if not s then return packed or 'gone' end
if s.reason or (s.deadline and now >= s.deadline) then return 'gone' end
local renewing, clear = band(bits, 32) ~= 0, band(bits, 1) ~= 0
if renewing and ARGV[2]:sub(1, 32) ~= s.digest then
  if overlap == 0 then return {'superseded', 0, packed} end
  renewing, clear = false, false
end
local readable, names, fields = pcall(fields_of, packed, s.at)
if not readable then return DAMAGED end
local lists_at = 4 + 3 * tonumber(ARGV[3])
for i = 4, lists_at - 1, 3 do
  if ARGV[i + 1] ~= '' then
    local stored = fields[ARGV[i]]
    if (stored and #stored >= 4 and struct.unpack('<I4', stored) or 0) ~= tonumber(ARGV[i + 1]) then return {'conflict', 0, packed} end
  end
end

local before, was_hooked = due_of(s), hooked(s)
local hooks = was_hooked
s.revision = s.revision + 1
local stamp = struct.pack('<I4', s.revision)
local size_before, count_before = #packed - s.at + 1, #names
if clear then names, fields = {}, {} end
local function put(name, value)
  if value and not fields[name] then
    -- A name that was removed and comes back is a new one, and goes to the end.
    for at = #names, 1, -1 do if names[at] == name then table.remove(names, at) end end
    names[#names + 1] = name
  end
  fields[name] = value
end
for i = 4, lists_at - 1, 3 do
  local value = ARGV[i + 2]
  if value == '' then put(ARGV[i], nil)
  else
    put(ARGV[i], stamp .. value)
    hooks = hooks or band(value:byte(3), 1) ~= 0
  end
end
local at = lists_at
while at <= #ARGV do
  local name, sealed, removals, prepended, appended =
    ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local removed, all, first = {}, {}, s.revision * 1048576
  at = at + 5
  for i = at, at + removals - 1 do removed[tonumber(ARGV[i])] = true end
  at = at + removals
  for n = prepended, 1, -1 do all[#all + 1] = '\148' .. cmsgpack.pack(-(first + n - 1)) .. ARGV[at + n - 1] end
  at = at + prepended
  if fields[name] then
    -- What is no list counts as absent, and a list in its place replaces it.
    local is_list, stored = pcall(elements, fields[name])
    for _, element in ipairs(is_list and stored or {}) do
      if not removed[element[1]] then
        all[#all + 1] = element[3]
        sealed = bor(sealed, band(element[2], 4))
      end
    end
  end
  for n = 1, appended do all[#all + 1] = '\148' .. cmsgpack.pack(first + n - 1) .. ARGV[at + n - 1] end
  at = at + appended
  put(name, #all > 0 and stamp .. '\0\0' .. string.char(2 + sealed) .. head_of(#all, 144, 220) .. table.concat(all) or nil)
end
if hooks then
  s.flags = band(s.flags, 253)
  for _, field in pairs(fields) do
    if band(field:byte(7) or 0, 1) ~= 0 then s.flags = bor(s.flags, 2) break end
  end
end

local written = 0
if band(bits, 4) ~= 0 and not fresh(s, now) then
  use(s, now, timeout, granularity)
  written = 1
end
if band(bits, 8) ~= 0 then s.flags = bor(band(s.flags, 207), band(bits, 64) ~= 0 and 16 or band(bits, 128) ~= 0 and 32 or 0) end
if renewing then
  s.old_digest, s.old_tag, s.old_until = s.digest, overlap ~= 0 and s.tag or NO_TAG, now + overlap
  s.digest, s.tag, s.address = ARGV[2]:sub(33, 64), ARGV[2]:sub(65, 80), ARGV[2]:sub(81)
end
if band(bits, 2) ~= 0 then s.timeout, s.used, s.granularity, s.flags = own_timeout, now, own_granularity, bor(s.flags, 4) end

local rest, count = pack_fields(names, fields)
-- Only what grows is too large: see limits.py.
if count > max_keys and count > count_before then return {'keys', count} end
if #rest > max_bytes and #rest > size_before then return {'bytes', #rest} end
packed = build(s) .. rest
store(packed)
if written == 1 or band(bits, 2) ~= 0 or was_hooked ~= hooked(s) then keep(s, now, before) end
return {'committed', written, packed}
""",
)

END = Script(r"""
local packed, s = load()
if not s then return packed or false end
if s.reason then return false end
local now, lease
now, lease, s.reason = struct.unpack('<ddB', ARGV[1])
s.ended, s.claimed = now, now + lease
packed = build(s) .. packed:sub(s.at)
if hooked(s) then
  though_full()
  store(packed)
  index(s.claimed, KEEP_HOOKED)
else
  drop()
end
return {0, packed}
""")

SWEEP = Script(r"""
local now, lease, grace = struct.unpack('<ddd', ARGV[1])
local packed, s = load()
if not s then
  redis.call('ZREM', KEYS[2], KEYS[1]:sub(-32))
  return packed or false
end
though_full()
if not s.reason then
  local due = due_of(s)
  if now < due then
    keep(s, now)
    return false
  end
  -- 1 and 2 are timeout and lifetime in END_REASONS
  s.reason, s.ended, s.claimed = due == s.deadline and 2 or 1, now, now + lease
elseif not hooked(s) or now >= s.ended + grace then
  drop()
  return {0, packed}
elseif s.claimed <= now then
  -- as in `Ending.claimed_again`
  s.claimed = math.max(now + lease, math.min(now + (now - s.ended) / 8, s.ended + grace))
else
  index(s.claimed, s.ended + grace - now + KEEP)
  return false
end
packed = build(s) .. packed:sub(s.at)
if hooked(s) then
  store(packed)
  index(s.claimed, s.ended + grace - now + KEEP)
else
  drop()
end
return {0, packed}
""")

CLEAR = Script(
    _FIELDS,
    r"""
local packed, s = load()
if packed == DAMAGED then return DAMAGED end
if not s or not s.reason then return 0 end
local readable, names, fields = pcall(fields_of, packed, s.at)
if ARGV[1] == 'all' or not readable then
  drop()
  return 1
end
for i = 2, #ARGV do fields[ARGV[i]] = nil end
local rest, hooks = pack_fields(names, fields), false
for _, value in pairs(fields) do hooks = hooks or (#value > 6 and band(value:byte(7), 1) ~= 0) end
though_full()
if hooks then store(packed:sub(1, s.at - 1) .. rest) else drop() end
return 1
""",
)

SCRIPTS = (CREATE, OPEN, TOUCH, COMMIT, END, SWEEP, CLEAR)
