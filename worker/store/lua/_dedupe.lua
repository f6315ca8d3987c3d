-- Dedupe keys: which delivery holds one, and until when. Stands in front of every script, behind _cells.lua.
--
-- The hash `dedupe` has a field for each key: its digest (16 bytes) -> delivery 6, until when 6 (ms). So two commands
-- serve a whole chunk; a key of the server's own for each would take one each, and half as much memory again. A key whose
-- time is over counts for nothing. `lapse:<ms>` lists digests by the minute in which that comes, for lapse.lua.

local DIGEST, SLOT = 16, 60000

-- The delivery that holds a key now, by what the hash says of it (false: nothing); else nil.
local function holder_in(value)
  if not value then return nil end
  local n, till = struct.unpack('>I6I6', value)
  return till > now and n or nil
end

-- What the hash says of keys.
local function read_keys(digests)
  local values, k = {}, 0
  in_pieces(digests, function(...)
    for _, value in ipairs(redis.call('HMGET', root .. 'dedupe', ...)) do
      k = k + 1
      values[k] = value
    end
  end)
  return values
end

local function drop_keys(digests)
  in_pieces(digests, function(...) redis.call('HDEL', root .. 'dedupe', ...) end)
end

-- Until when keys of this window are held that are taken now: as their values end, and the slot of their lapse.
local function till(window)
  local at = now + window
  return struct.pack('>I6', at), string.format('%.0f', math.ceil(at / SLOT) * SLOT)
end

-- Keys that this script takes for deliveries; write_keys() writes them all.
local holding, held_keys, lapsing = {}, 0, {}
local function hold_key(digest, value, slot)
  holding[held_keys + 1], holding[held_keys + 2] = digest, value
  held_keys = held_keys + 2
  local digests = lapsing[slot]
  if not digests then digests = {}; lapsing[slot] = digests end
  digests[#digests + 1] = digest
end

local function write_keys()
  in_pieces(holding, function(...) redis.call('HSET', root .. 'dedupe', ...) end)
  for slot, digests in pairs(lapsing) do
    redis.call('RPUSH', root .. 'lapse:' .. slot, table.concat(digests))
    redis.call('ZADD', root .. 'lapse', slot, slot)
  end
end

-- Keys that this script frees, those of them that are still the deliveries' own; free_keys() does so for all.
local freed = { digests = {}, ns = {} }
local function free_key(digest, n)
  if digest == '' then return end
  table.insert(freed.digests, digest)
  table.insert(freed.ns, n)
end

local function free_keys()
  local own = {}
  for i, value in ipairs(read_keys(freed.digests)) do
    if value and struct.unpack('>I6', value) == freed.ns[i] then own[#own + 1] = freed.digests[i] end
  end
  drop_keys(own)
end

-- The cell of a delivery that ends by `ended` (a head) without this batch having been sent, its key freed; or as
-- unknown with its key kept, when an earlier attempt may have been sent.
local function end_unsent(cell, ended, digest, n)
  local reason = reason_of(cell)
  if MAYBE_SENT[reason] then
    return head('u', reason, 0, batch_of(cell)) .. string.sub(cell, HEAD + 1)
  end
  free_key(digest, n)
  return ended .. string.sub(cell, HEAD + 1)
end
