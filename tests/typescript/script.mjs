// A session with a box, as a user of the public SDK would have it. Every call is made through the
// SDK's own classes, which are not changed in any way; where the SDK itself is wrong (it says so
// below), what it does with a correct server is what is expected.
//
// Arguments: the control plane's address, a file with a kubeconfig. Prints the names of the calls
// as JSON; fails with the first call that does not do what it should.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { DevboxSDK } from '@labring/devbox-sdk'

const [baseUrl, kubeconfigFile] = process.argv.slice(2)
const kubeconfig = readFileSync(kubeconfigFile, 'utf8')
const sdk = new DevboxSDK({ kubeconfig, baseUrl })
const api = sdk.getAPIClient()
const calls = []

async function call(name, promise) {
  calls.push(name)
  try {
    return await promise()
  } catch (error) {
    error.message = `call ${calls.length}, ${name}: ${error.message}`
    throw error
  }
}

async function refused(name, promise, expected) {
  calls.push(name)
  await assert.rejects(promise, expected, `call ${calls.length}, ${name}`)
}

async function until(name, what, condition) {
  const deadline = Date.now() + 60_000
  for (;;) {
    const value = await call(name, what)
    if (condition(value)) return value
    calls.pop() // polling counts once
    assert.ok(Date.now() < deadline, `${name}: not within 60 s`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

// ------------------------------------------------------------------------------- lifecycle

assert.equal(await call('testAuth', () => api.testAuth()), true)
const stranger = new DevboxSDK({
  kubeconfig: kubeconfig.replace(/"token": "[^"]*"/, '"token": "wrong-wrong"'),
  baseUrl,
  http: { retries: 1 },
}).getAPIClient()
assert.equal(await call('testAuth with a wrong token', () => stranger.testAuth()), false)

const templates = await call('getTemplates', () => api.getTemplates())
assert.ok(templates.some((template) => template.runtime === 'python'))
assert.deepEqual(await call('listDevboxes', () => sdk.listDevboxes()), [])

const box = await call('createDevbox', () =>
  sdk.createDevbox({
    name: 'ts-box',
    runtime: 'python',
    resource: { cpu: 1, memory: 2 },
    ports: [{ number: 8000, protocol: 'HTTP' }],
  }),
)
assert.equal(box.status, 'Running')
const second = await call('createDevboxAsync', () =>
  sdk.createDevboxAsync({ name: 'second', runtime: 'node.js', resource: { cpu: 0.5, memory: 1 } }),
)
await refused('createDevbox, taken', () =>
  sdk.createDevboxAsync({ name: 'second', runtime: 'go', resource: { cpu: 1, memory: 1 } }))
await refused('createDevbox, too large', () =>
  sdk.createDevboxAsync({ name: 'third', runtime: 'go', resource: { cpu: 3, memory: 1 } }))
await call('waitForReady', () => second.waitForReady({ timeout: 60_000 }))
assert.equal(await call('isHealthy', () => second.isHealthy()), true)
const listed = await call('listDevboxes', () => sdk.listDevboxes())
assert.deepEqual(listed.map((each) => each.name).sort(), ['second', 'ts-box'])
assert.deepEqual(listed.find((each) => each.name === 'ts-box').resources, { cpu: 1000, memory: 2048 })
assert.equal((await call('getDevbox', () => sdk.getDevbox('ts-box'))).runtime, 'python')
await refused('getDevbox, none', () => sdk.getDevbox('none'), { code: 404 })

// ----------------------------------------------------------------------------------- files

await call('writeFile, text', () => box.writeFile('src/main.py', 'print("hello")\n'))
const text = await call('readFile', () => box.readFile('src/main.py'))
assert.equal(text.toString(), 'print("hello")\n')
const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251))
await call('writeFile, raw', () => box.writeFile('data.bin', bytes))
assert.ok((await call('downloadFile', () => box.downloadFile('data.bin'))).equals(bytes))
await call('writeFile, base64', () => box.writeFile('b64.bin', bytes, { encoding: 'base64' }))
assert.ok((await call('readFile, base64', () => box.readFile('b64.bin'))).equals(bytes))
const long = 'long '.repeat(500_000)
await call('writeFile, long text', () => box.writeFile('long.txt', long))
assert.equal((await call('readFile, long', () => box.readFile('long.txt'))).length, long.length)
await call('writeFile, absolute', () => box.writeFile('/home/devbox/project/abs.txt', 'absolute'))
await refused('readFile, none', () => box.readFile('none.txt'), { code: 'FILE_NOT_FOUND' })
await refused('readFile, outside', () => box.readFile('/etc/passwd'), {
  code: 'AUTHENTICATION_FAILED', // what the SDK makes of "forbidden"
})

const { files } = await call('listFiles', () => box.listFiles('.'))
assert.deepEqual(
  files.map((file) => [file.name, file.isDir]).sort(),
  [['abs.txt', false], ['b64.bin', false], ['data.bin', false], ['long.txt', false], ['src', true]],
)
assert.equal(files.find((file) => file.name === 'data.bin').size, bytes.length)
await refused('listFiles, none', () => box.listFiles('none'), { code: 'FILE_NOT_FOUND' })

const upload = await call('uploadFiles', () =>
  box.uploadFiles({ 'up/one.txt': 'needle one', 'up/deep/two.txt': Buffer.from('two'), 'up/e': '' }),
)
assert.equal(upload.totalFiles, 3)
assert.equal(upload.successCount, 3)
assert.equal((await call('readFile, uploaded', () => box.readFile('up/deep/two.txt'))).toString(), 'two')
const archive = await call('downloadFiles, tar.gz', () =>
  box.downloadFiles(['up/one.txt', 'up/deep'], { format: 'tar.gz' }),
)
assert.ok(gunzipSync(archive).includes('up/deep/two.txt'))
const tar = await call('downloadFiles, tar', () => box.downloadFiles(['up/one.txt'], { format: 'tar' }))
assert.equal(tar.length % 512, 0)
assert.ok(tar.includes('needle one'))
const mixed = await call('downloadFiles, multipart', () =>
  box.downloadFiles(['up/one.txt'], { format: 'multipart' }),
)
assert.ok(mixed.includes('needle one'))

const endings = (found) => found.files.map((path) => path.split('/').slice(-2).join('/'))
const searched = await call('searchFiles', () => box.searchFiles({ pattern: 'ONE' }))
assert.deepEqual(endings(searched), ['up/one.txt'])
const found = await call('findInFiles', () => box.findInFiles({ dir: 'up', keyword: 'needle' }))
assert.deepEqual(endings(found), ['up/one.txt'])
const replaced = await call('replaceInFiles', () =>
  box.replaceInFiles({ files: ['up/one.txt', 'up/e'], from: 'needle', to: 'pin' }),
)
assert.deepEqual(
  replaced.results.map((result) => [result.status, result.replacements]),
  [['success', 1], ['skipped', 0]],
)
await call('moveFile', () => box.moveFile('up/one.txt', 'moved/one.txt'))
await refused('moveFile, taken', () => box.moveFile('data.bin', 'moved/one.txt'), { code: 'CONFLICT' })
await call('moveFile, over', () => box.moveFile('up/e', 'moved/one.txt', true))
await call('renameFile', () => box.renameFile('moved/one.txt', 'renamed.txt'))
await refused('renameFile, taken', () => box.renameFile('renamed.txt', 'data.bin'), { code: 'CONFLICT' })
await call('deleteFile', () => box.deleteFile('renamed.txt'))
await refused('deleteFile, none', () => box.deleteFile('renamed.txt'), { code: 'FILE_NOT_FOUND' })

// ------------------------------------------------------------------------------- processes

const cwd = '/home/devbox/project'
const run = await call('execSync', () =>
  box.execSync({ command: 'echo', args: ['$GREETING', 'from', '$(ls src)'], cwd, env: { GREETING: 'hi' } }),
)
assert.equal(run.stdout, 'hi from main.py\n')
assert.equal(run.exitCode, 0)
const failing = await call('execSync, failing', () => box.execSync({ command: 'echo bad >&2; exit 3' }))
assert.deepEqual([failing.stderr, failing.exitCode], ['bad\n', 3])
await refused('execSync, too long', () => box.execSync({ command: 'sleep 20', timeout: 1 }), {
  code: 'INTERNAL_ERROR',
})
const code = await call('codeRun', () =>
  box.codeRun('console.log(process.argv.length > 0 ? 6 * 7 : 0)', { language: 'node', cwd }),
)
assert.equal(code.stdout, '42\n')
// The SDK sends a token of its own making here, which a real agent refuses too.
await refused('execSyncStream', () => box.execSyncStream({ command: 'ls' }), /401/)

const started = await call('executeCommand', () =>
  box.executeCommand({ command: 'echo started; exec sleep 60', cwd }),
)
assert.equal(started.processStatus, 'running')
await until('getProcessLogs', () => box.getProcessLogs(started.processId), (answer) =>
  answer.logs.includes('[stdout] started\n'))
const { processes } = await call('listProcesses', () => box.listProcesses())
assert.ok(processes.some((each) => each.processId === started.processId))
const status = await call('getProcessStatus', () => box.getProcessStatus(started.processId))
assert.deepEqual([status.pid, status.processStatus], [started.pid, 'running'])
await call('killProcess', () => box.killProcess(started.processId, { signal: 'SIGTERM' }))
await until('getProcessStatus, killed', () => box.getProcessStatus(started.processId), (answer) =>
  answer.processStatus === 'killed')
await refused('getProcessStatus, none', () => box.getProcessStatus('none'), { code: 'FILE_NOT_FOUND' })

await call('git.status needs a repository', () => box.execSync({ command: 'git init -q -b main .', cwd }))
await call('git.add', () => box.git.add('.', 'src/main.py'))
// The SDK puts "A <a@example.org>" into a shell without quotes, which takes it for a redirection.
await refused('git.commit', () => box.git.commit('.', 'first', 'A', 'a@example.org'), /Git commit failed/)
await call('execSync, committing', () =>
  box.execSync({ command: 'git -c user.name=A -c user.email=a@b.c commit -qm first', cwd }))
const state = await call('git.status', () => box.git.status('.'))
assert.equal(state.currentBranch, 'main')

// ----------------------------------------------------------------------- ports, monitoring

await call('executeCommand, listening', () =>
  box.executeCommand({
    command: `node -e "require('net').createServer().listen(8123, '0.0.0.0')"`,
    cwd,
  }),
)
await until('getPorts', () => box.getPorts(), (answer) => answer.ports.includes(8123))
const preview = await call('getPreviewLink', () => box.getPreviewLink(8123))
assert.match(preview.url, /\/\/devbox-[a-z]+-[a-z]+-[a-z]{4}-8123\./)
await call('updatePorts', () => api.updatePorts('ts-box', [{ number: 3000 }, { number: 9000, protocol: 'WS' }]))
const detailed = await call('getDetailedInfo', () => box.getDetailedInfo())
assert.deepEqual(detailed.ports.map((port) => [port.number, port.protocol]), [[3000, 'HTTP'], [9000, 'WS']])
await call('updateDevbox', () => api.updateDevbox('ts-box', { resource: { cpu: 2, memory: 4 } }))
await call('refreshInfo', () => box.refreshInfo())
assert.deepEqual(box.resources, { cpu: 2, memory: 4 })
const points = await until(
  'getMonitorData',
  () => box.getMonitorData({ start: Date.now() - 600_000, end: Date.now(), step: '1m' }),
  (answer) => answer.length > 0 && answer.some((point) => point.memory > 0),
)
assert.ok(points.every((point) => point.cpu >= 0 && point.timestamp > 1.6e9))

// ---------------------------------------------------------------- releases, states, the end

await call('configureAutostart', () =>
  api.configureAutostart('ts-box', { execCommand: 'echo auto > started.txt' }))
await until('readFile, by autostart', () => box.readFile('started.txt').catch(() => ''), (answer) =>
  answer.toString() === 'auto\n')
await call('createRelease', () => api.createRelease('ts-box', { tag: 'v1', releaseDes: 'first' }))
await refused('createRelease, taken', () => api.createRelease('ts-box', { tag: 'v1' }))
const [pending] = await call('listReleases', () => api.listReleases('ts-box'))
assert.deepEqual([pending.tag, pending.status.value, pending.description], ['v1', 'Pending', 'first'])
await call('pause', () => box.pause())
await until('getDevbox, stopped', () => api.getDevbox('ts-box'), (answer) => answer.status === 'Stopped')
assert.equal(await call('isHealthy, stopped', () => box.isHealthy()), false)
const [finished] = await call('listReleases, finished', () => api.listReleases('ts-box'))
assert.equal(finished.status.value, 'Success')
await call('deployRelease', () => api.deployRelease('ts-box', 'v1'))
await call('deleteRelease', () => api.deleteRelease('ts-box', 'v1'))
assert.deepEqual(await call('listReleases, none', () => api.listReleases('ts-box')), [])
await call('start', () => box.start())
await call('waitForReady, again', () => box.waitForReady({ timeout: 60_000 }))
assert.equal((await call('readFile, kept', () => box.readFile('abs.txt'))).toString(), 'absolute')
await call('restart', () => box.restart())
await call('waitForReady, restarted', () => box.waitForReady(60_000, 100))
await call('shutdown', () => second.shutdown())
await until('getDevbox, shut down', () => api.getDevbox('second'), (answer) => answer.status === 'Shutdown')
await call('delete', () => second.delete())
await call('delete', () => box.delete())
assert.deepEqual(await call('listDevboxes, none', () => sdk.listDevboxes()), [])
await call('close', () => sdk.close())

console.log(JSON.stringify(calls))
