-- The bound on the server's memory. Stands in front of the scripts that ask for it, behind the shared ones.

-- What a user may not ask for (ACL), or a server does not have, bounds nothing.
local function asked(...)
  local answer = redis.pcall(...)
  return type(answer) ~= 'table' and answer or nil
end

-- The bytes in use and the most that may be, `share` of maxmemory; nil where there is no such bound.
local function memory_bound(share)
  local info = share > 0 and share < 1 and asked('INFO', 'memory') or ''
  local limit = tonumber(string.match(info, '\nmaxmemory:(%d+)') or '0')
  if limit > 0 then return tonumber(string.match(info, '\nused_memory:(%d+)')), math.floor(limit * share) end
end
