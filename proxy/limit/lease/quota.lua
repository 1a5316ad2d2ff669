-- KEYS[1] holds DAY:COUNT, the first day of a window (days since 1970, UTC) and what was given in it.
-- ARGV: tokens wanted (negative: handed back), day or month, requests a window, the divisor of what may go at once, and for
-- tokens handed back the window they are of.
-- Returns: tokens given, tokens left, us until there is one, us until the window ends, the window.
local floor = math.floor
local now = redis.call('TIME')
local seconds, micros = tonumber(now[1]), tonumber(now[2])
local day = floor(seconds / 86400)
local first, after = day, day + 1
if ARGV[2] == 'month' then -- days to year, month and day as in H. Hinnant, chrono-compatible low-level date algorithms
  local z = day + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153) -- 0 is March
  local year = yoe + era * 400 + (mp >= 10 and 1 or 0)
  local length = ({31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 28})[mp + 1]
  if mp == 11 and (year % 4 == 0 and year % 100 ~= 0 or year % 400 == 0) then
    length = 29
  end
  first = day - (doy - floor((153 * mp + 2) / 5))
  after = first + length
end
local n, limit = tonumber(ARGV[1]), tonumber(ARGV[3])
local held = redis.pcall('GET', KEYS[1])
local window, count = string.match(type(held) == 'string' and held or '', '^(%d+):(%d+)$')
count = tonumber(window) == first and tonumber(count) or 0
local left = math.max(limit - count, 0)
if n > 0 then
  n = math.min(n, left, math.max(1, floor(left / ARGV[4])))
elseif tonumber(ARGV[5]) == first then
  n = math.max(n, -count)
else
  n = 0
end
if n ~= 0 then
  count = count + n
  left = math.max(limit - count, 0)
  redis.call('SET', KEYS[1], string.format('%d:%d', first, count), 'EX', after * 86400 - seconds + 3600)
end
local reset = (after * 86400 - seconds) * 1000000 - micros
return {n, left, left > 0 and 0 or reset, reset, first}
